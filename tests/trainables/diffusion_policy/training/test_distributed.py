"""Data-parallel training: the number of workers changes the speed, not the result."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from small_policy import small_batch, small_policy
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.training.learner import distributed, synchronised
from trainables.diffusion_policy.training.objective import DENOISING
from trainables.diffusion_policy.training.stream import NOISE, TIMESTEPS
from trainables.interface import TrainContext

pytestmark = pytest.mark.slow


def join_group(rank: int, world_size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)


def worker(rank: int, world_size: int, config: dict[str, Any], folder: Path) -> None:
    """One process of a worker group, as the service would start it."""
    join_group(rank, world_size, folder)
    context = TrainContext(folder=folder, cache=folder / "cache", rank=rank, world_size=world_size, threads=1)
    reports = [(report.step, dict(report.metrics)) for report in TRAINABLE.train(config, context)]
    (folder / f"rank{rank}.json").write_text(json.dumps(reports))
    dist.destroy_process_group()


def test_two_workers_learn_what_one_does(small_config: dict[str, Any], tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    together.mkdir()
    context = TrainContext(folder=alone, cache=tmp_path / "cache", threads=1)
    expected = {report.step: report.metrics for report in TRAINABLE.train(small_config, context)}

    multiprocessing.spawn(worker, args=(2, small_config, together), nprocs=2, join=True)

    ranks = [json.loads((together / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [step for step, _ in ranks[0]] == [step for step, _ in ranks[1]] == list(expected)
    for step, metrics in ranks[0]:
        assert metrics["train/loss"] == pytest.approx(expected[step]["train/loss"], rel=1e-4)
        assert metrics["train/grad_norm"] == pytest.approx(expected[step]["train/grad_norm"], rel=1e-3)
    assert ranks[0][-1][1]["eval/action_mse"] == pytest.approx(expected[12]["eval/action_mse"], rel=1e-3)


def gradients(loss: nn.Module, rank: int, passes: int, *, every_pass: bool) -> list[list[Tensor]]:
    """The gradients of three steps, whose batches and noise depend on step and rank."""
    found = []
    for step in range(3):
        for parameter in loss.parameters():
            parameter.grad = None
        for number in range(passes):
            seed = 100 * step + 10 * rank + number
            batch = small_batch(small_policy(cameras=1, image=(64, 64)), seed=seed)
            generator = torch.Generator().manual_seed(seed)
            batch[NOISE] = torch.randn(batch["action"].shape, generator=generator)
            batch[TIMESTEPS] = torch.tensor([0, 5, 10, 19])
            with synchronised(loss, last=every_pass or number == passes - 1):
                (loss(batch, generator) / passes).backward()
        found.append([parameter.grad.clone() for parameter in loss.parameters()])
    return found


def compare_gradients(rank: int, world_size: int, folder: Path) -> None:
    """Compare the gradients with those of PyTorch's defaults, and count what is sent."""
    join_group(rank, world_size, folder)
    context = TrainContext(folder=folder, cache=folder, rank=rank, world_size=world_size, threads=1)
    report = {}
    for passes in (1, 3):
        plain, ours = (DENOISING.loss_of(small_policy(cameras=1, image=(64, 64)).train()) for _ in range(2))
        parallel = distributed(ours, context, passes)
        sent: list[int] = []
        # A function with annotations as text is refused.
        parallel.register_comm_hook(
            sent, lambda state, bucket: (state.append(bucket.index()), allreduce_hook(None, bucket))[1]
        )
        found = gradients(parallel, rank, passes, every_pass=False)
        expected = gradients(DistributedDataParallel(plain), rank, passes, every_pass=True)
        for step in range(3):
            for one, other in zip(found[step], expected[step], strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        report[passes] = sent.count(0)
    # All ranks have the same gradients, and not those of their batch alone.
    alone = gradients(
        DENOISING.loss_of(small_policy(cameras=1, image=(64, 64)).train()), rank, 1, every_pass=True
    )
    assert not torch.allclose(alone[0][0], expected[0][0], rtol=1e-3, atol=0)
    (folder / f"rank{rank}.json").write_text(json.dumps(report))
    dist.destroy_process_group()


def test_gradients_are_those_of_plain_data_parallelism_and_are_sent_once_a_step(tmp_path: Path) -> None:
    multiprocessing.spawn(compare_gradients, args=(2, tmp_path), nprocs=2, join=True)

    for rank in range(2):
        sent = json.loads((tmp_path / f"rank{rank}.json").read_text())
        # Of three steps, whether of one pass or of three, the first bucket is sent three times.
        assert sent == {"1": 3, "3": 3}


def test_a_batch_that_does_not_split_among_the_workers_is_refused(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    from trainables.interface import ConfigError

    context = TrainContext(folder=tmp_path, cache=tmp_path, rank=0, world_size=3, threads=1)
    with pytest.raises(ConfigError, match="multiple of 3"):
        next(iter(TRAINABLE.train(small_config, context)))
