"""A GPU computes what a CPU does. Tests of a GPU are marked `gpu` and skipped if there is none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_policy import generators, small_batch, small_policy

from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.diffusion_policy.training.checkpoint import Checkpoints, read
from trainables.diffusion_policy.training.stream import BatchStream
from trainables.diffusion_policy.training.train import OutOfMemoryError
from trainables.interface import Report, TrainContext

GPU = "cuda:0"
on_a_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU here"),
]
every_device = pytest.mark.parametrize("device", ["cpu", pytest.param(GPU, marks=on_a_gpu)])
slow_on_a_cpu = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param(GPU, marks=on_a_gpu)]
)
the_gpu = pytest.mark.parametrize("device", [pytest.param(GPU, marks=on_a_gpu)])


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """float32 is float32: without TF32, which has 10 bits of 23."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def never() -> bool:
    return False


def run(
    config: dict[str, Any],
    folder: Path,
    device: str,
    *,
    reports: int | None = None,
    stop_requested: Callable[[], bool] = never,
) -> list[Report]:
    context = TrainContext(
        folder=folder, cache=folder / "cache", device=device, threads=1, stop_requested=stop_requested
    )
    return list(itertools.islice(TRAINABLE.train(config, context), reports))


def losses(reports: list[Report]) -> list[float]:
    return [report.metrics["train/loss"] for report in reports]


@the_gpu
def test_training_and_evaluation_give_the_numbers_of_a_cpu(
    small_config: dict[str, Any], tmp_path: Path, device: str
) -> None:
    expected = run(small_config, tmp_path / "cpu", "cpu")
    found = run(small_config, tmp_path / "gpu", device)

    assert losses(found) == pytest.approx(losses(expected), rel=1e-3)
    error = "eval/action_mse"
    assert found[-1].metrics[error] == pytest.approx(expected[-1].metrics[error], rel=2e-2)


@every_device
def test_noise_and_crops_do_not_depend_on_the_device(circles: Path, device: str) -> None:
    dataset = open_dataset(circles)
    windows = Windows(dataset, tuple(range(4)), n_obs_steps=2, horizon=8, drop_n_last_frames=3, frames={})

    def batch(of: str) -> Any:
        stream = BatchStream(
            windows, 8, num_train_timesteps=20, seed=3, rank=0, world_size=1, device=torch.device(of)
        )
        try:
            return stream.batch(5)
        finally:
            stream.close()

    found, expected = batch(device), batch("cpu")
    assert found.values.keys() == expected.values.keys()
    assert all(torch.equal(found.values[name].cpu(), value) for name, value in expected.values.items())
    # On a GPU the crops of two half batches would differ from those of the whole batch.
    assert found.generator.device.type == "cpu"


@slow_on_a_cpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_close_to_full(
    small_config: dict[str, Any], tmp_path: Path, device: str, precision: str
) -> None:
    expected = run(small_config, tmp_path / "fp32", "cpu")
    found = run(small_config | {"train.precision": precision}, tmp_path / precision, device)

    assert all(math.isfinite(value) for report in found for value in report.metrics.values())
    assert losses(found) == pytest.approx(losses(expected), rel=5e-2)


@the_gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_equals_a_straight_one(
    small_config: dict[str, Any], tmp_path: Path, device: str, precision: str
) -> None:
    config = small_config | {"train.precision": precision}
    straight = run(config, tmp_path / "straight", device)
    run(config, tmp_path / "cut", device, reports=2)
    resumed = run(config, tmp_path / "cut", device)

    assert [report.step for report in resumed] == [6, 9, 12]
    # Sums of one kernel may come in another order every time; on a CPU it is bit for bit.
    assert losses(resumed)[1:] == pytest.approx(losses(straight)[2:], rel=1e-3)
    one, other = (read(found) for found in map(last_checkpoint, (tmp_path / "straight", tmp_path / "cut")))
    for name, value in one.model.items():
        torch.testing.assert_close(other.model[name], value, rtol=1e-3, atol=1e-4)


def last_checkpoint(folder: Path) -> Path:
    found = Checkpoints(folder / "checkpoints").find("last")
    assert found is not None
    return found


def gradients(policy: DiffusionPolicy, device: str) -> list[torch.Tensor]:
    policy.to(device).train()
    batch = {name: value.to(device) for name, value in small_batch(policy).items()}
    noise = torch.randn(batch["action"].shape, generator=torch.Generator().manual_seed(1))
    policy.loss(batch, noise, torch.tensor([0, 5, 10, 19]), torch.Generator().manual_seed(0)).backward()
    return [p.grad.cpu() for p in policy.parameters() if p.grad is not None]


@slow_on_a_cpu
def test_gradient_checkpointing_gives_the_same_gradients(device: str) -> None:
    found = []
    for enabled in (False, True):
        policy = small_policy(cameras=1, image=(64, 64), crop_shape=(56, 56))
        policy.set_gradient_checkpointing(enabled)
        found.append(gradients(policy, device))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-6)


@the_gpu
def test_gradients_are_those_of_a_cpu(device: str) -> None:
    found, expected = (
        torch.cat([g.flatten() for g in gradients(small_policy(cameras=1, image=(64, 64)), where)])
        for where in (device, "cpu")
    )
    assert (found - expected).norm() < 1e-3 * expected.norm()


@the_gpu
@pytest.mark.parametrize("sampler", ["DDPM", "DDIM", "DPM-Solver++"])
def test_actions_are_those_of_a_cpu(device: str, sampler: str) -> None:
    def chunk(where: str) -> torch.Tensor:
        policy = small_policy(cameras=1, image=(64, 64)).to(where).eval()
        seen = {name: value.to(where) for name, value in small_batch(policy).items()}
        return policy.predict_action(
            seen, generator=generators(0, 1, 2, 3), sampler=sampler, num_inference_steps=8
        ).cpu()

    # The actions' range is 200.
    torch.testing.assert_close(chunk(device), chunk("cpu"), rtol=0.0, atol=0.2)


class TooLittleMemory:
    """From a step on a GPU's process may hold what it holds and 1 MB; on a CPU the error is raised."""

    def __init__(self, device: str, step: int) -> None:
        self.device = device
        self.left = step

    def __call__(self) -> bool:
        self.left -= 1
        if self.left == 0 and self.device == "cpu":
            raise torch.OutOfMemoryError("as a GPU says it")
        if self.left == 0:
            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(self.device).total_memory
            limit = torch.cuda.memory_reserved(self.device) + (1 << 20)
            torch.cuda.set_per_process_memory_fraction(limit / total, self.device)
        return False


@slow_on_a_cpu
def test_a_run_that_is_out_of_memory_reports_it_and_a_lighter_one_continues_it(
    small_config: dict[str, Any], tmp_path: Path, device: str
) -> None:
    # A pass over this batch needs some hundred MB, so that 1 MB does not suffice.
    config = small_config | {"train.batch_size": 2048 if device == GPU else 16, "policy.horizon": 16}
    straight = run(config, tmp_path / "straight", device)
    try:
        with pytest.raises(OutOfMemoryError, match=r"double train\.gradient_accumulation_steps") as raised:
            run(config, tmp_path / "cut", device, stop_requested=TooLittleMemory(device, 7))
    finally:
        if device == GPU:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert raised.value.reason == "out_of_memory"

    lighter = TRAINABLE.lighter(config)
    assert lighter is not None
    resumed = run(dict(lighter), tmp_path / "cut", device)
    assert [report.step for report in resumed] == [6, 9, 12]
    assert losses(resumed) == pytest.approx(losses(straight)[1:], rel=1e-3)
