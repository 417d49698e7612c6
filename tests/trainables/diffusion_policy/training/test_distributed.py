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

from trainables.diffusion_policy import TRAINABLE
from trainables.interface import TrainContext

pytestmark = pytest.mark.slow


def worker(rank: int, world_size: int, config: dict[str, Any], folder: Path) -> None:
    """One process of a worker group, as the service would start it."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", GLOO_SOCKET_IFNAME="lo")
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
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


def test_a_batch_that_does_not_split_among_the_workers_is_refused(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    from trainables.interface import ConfigError

    context = TrainContext(folder=tmp_path, cache=tmp_path, rank=0, world_size=3, threads=1)
    with pytest.raises(ConfigError, match="multiple of 3"):
        next(iter(TRAINABLE.train(small_config, context)))
