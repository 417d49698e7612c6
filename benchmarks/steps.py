"""How long an optimiser step takes: its parts by batch size, beside LeRobot's if that is installed.

``python -m benchmarks.steps [--batches 16 32 ...] [--rounds N] [--threads N] [--only TEXT] [--json FILE]``;
about ten minutes on one core. On a CPU times are CPU time, which other work on the machine disturbs least,
and the smallest of some rounds, in which the two sides alternate. On a GPU they are wall time, device at rest
before and after. Run it with the Python of an environment with LeRobot 0.6.1 and rich to compare the two.

`run` is the short form that ``python -m benchmarks`` shows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks import machine
from benchmarks.gpu.beside_lerobot import lerobot_policy, normalized
from benchmarks.gpu.cases import NotHereError
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.diffusion_policy.training.checkpoint import Checkpoints, Snapshot, optimizer_tensors
from trainables.diffusion_policy.training.ema import Ema
from trainables.diffusion_policy.training.optimizer import build_optimizer, clip_gradients
from trainables.diffusion_policy.training.process import keep_freed_memory
from trainables.diffusion_policy.training.saver import CheckpointSaver
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures

if TYPE_CHECKING:
    # Imported on use: the kit for GPUs does without it.
    from rich.table import Table

CAMERA = "observation.image"
KEYPOINTS = 16
STEPS, WARMUP = 20, 3
PARTS = ("forward", "backward", "clip", "AdamW", "average")
BATCHES, ROUNDS = (16, 32, 64, 128, 256), 5
NETWORKS = {
    "state, down_dims [32, 64]": (PolicyConfig(down_dims=(32, 64), diffusion_step_embed_dim=32), False),
    "one camera, ResNet18, down_dims [32, 64]": (
        PolicyConfig(down_dims=(32, 64), diffusion_step_embed_dim=32, crop_shape=(84, 84)),
        True,
    ),
}
GPU_NETWORKS = {"one camera, LeRobot's size": (PolicyConfig(crop_shape=(84, 84)), True)}
CASES = {
    "state, down_dims [32, 64], batch 128": (PolicyConfig(down_dims=(32, 64)), False, 128),
    "state, down_dims [128, 256, 512], batch 64": (PolicyConfig(down_dims=(128, 256, 512)), False, 64),
}
GPU_CASES = {
    "state, LeRobot's size, batch 64": (PolicyConfig(), False, 64),
    "one camera, LeRobot's size, batch 64": (PolicyConfig(crop_shape=(84, 84)), True, 64),
}


def run() -> dict[str, float]:
    """Measure milliseconds per step: forward, backward, AdamW."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    cases = CASES | (GPU_CASES if on_gpu else {})
    return {
        f"{name}, {precision}, ms": _measure(*case, precision=precision, device=device)
        for name, case in cases.items()
        for precision in ("fp32", "bf16")
    }


def _measure(
    config: PolicyConfig, camera: bool, batch_size: int, *, precision: str, device: torch.device
) -> float:
    torch.manual_seed(0)
    policy = make_policy(config, camera).to(device)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    batch = make_batch(config, camera, batch_size, device)
    generator = torch.Generator(device=device).manual_seed(0)
    times = []
    for _ in range(WARMUP + STEPS):
        start_s = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = policy.loss(batch, generator=generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for the device
        times.append(time.perf_counter() - start_s)
    return float(np.median(times[WARMUP:]) * 1e3)


def make_policy(config: PolicyConfig, camera: bool) -> DiffusionPolicy:
    """A policy with random weights; actions and states lie in [0, 1]."""
    inputs = [Feature(STATE, FeatureType.STATE, (2,))]
    if camera:
        inputs.insert(0, Feature(CAMERA, FeatureType.VISUAL, (3, 96, 96)))
    else:
        inputs.append(Feature(ENVIRONMENT_STATE, FeatureType.ENV, (KEYPOINTS,)))
    features = PolicyFeatures(tuple(inputs), Feature(ACTION, FeatureType.ACTION, (2,)))
    vector = {"min": np.zeros(2), "max": np.ones(2), "mean": np.zeros(2), "std": np.ones(2)}
    keypoints = {name: np.resize(value, KEYPOINTS) for name, value in vector.items()}
    picture = {"mean": np.full((3, 1, 1), 0.5), "std": np.full((3, 1, 1), 0.25)}
    statistics = {STATE: vector, ACTION: vector, CAMERA: picture, ENVIRONMENT_STATE: keypoints}
    return build_policy(config, features, statistics)


def make_batch(
    config: PolicyConfig, camera: bool, batch_size: int, device: torch.device
) -> dict[str, torch.Tensor]:
    """Random observations and actions that such a policy is trained on."""
    observed = (batch_size, config.n_obs_steps)
    batch = {
        STATE: torch.rand(*observed, 2, device=device),
        ACTION: torch.rand(batch_size, config.horizon, 2, device=device),
        "action_is_pad": torch.zeros(batch_size, config.horizon, dtype=torch.bool, device=device),
    }
    if camera:
        batch[CAMERA] = torch.randint(256, (*observed, 3, 96, 96), dtype=torch.uint8, device=device)
    else:
        batch[ENVIRONMENT_STATE] = torch.rand(*observed, KEYPOINTS, device=device)
    return batch


class _Watch:
    """The smallest time of each part, in milliseconds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.least_ms: dict[str, float] = {}

    def measure(self, part: str, work: Callable[[], object]) -> None:
        start_s = self._now_s()
        work()
        took_ms = (self._now_s() - start_s) * 1e3
        self.least_ms[part] = min(took_ms, self.least_ms.get(part, took_ms))

    def _now_s(self) -> float:
        if self._device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self._device)
        return time.perf_counter()


class _Ours:
    """A step as the trainable does it, without the loading of data."""

    def __init__(self, config: PolicyConfig, camera: bool, batch_size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.policy = make_policy(config, camera).to(device).train()
        self.batch = make_batch(config, camera, batch_size, device)
        self.optimizer = build_optimizer(self.policy, DiffusionConfig().optimizer)
        settings = DiffusionConfig().ema
        self.ema = Ema(self.policy, settings.inv_gamma, settings.power, settings.max_decay)
        self._crops = torch.Generator().manual_seed(0)
        self._folds = self.optimizer if device.type == "cuda" else None
        self.watch = _Watch(device)

    def step(self) -> None:
        """Forward, backward, clipping, AdamW, the average of the weights."""
        loss: list[torch.Tensor] = []
        bound = DiffusionConfig().optimizer.grad_clip_norm
        self.optimizer.zero_grad(set_to_none=True)
        work: tuple[Callable[[], object], ...] = (
            lambda: loss.append(self.policy.loss(self.batch, generator=self._crops)),
            lambda: loss[0].backward(),
            lambda: clip_gradients(self.policy, bound, self._folds),
            self.optimizer.step,
            lambda: self.ema.update(self.policy),
        )
        for part, do in zip(PARTS, work, strict=True):
            self.watch.measure(part, do)


class _Theirs:
    """A step of LeRobot's policy with the same weights, on observations that are normalised already."""

    def __init__(self, ours: _Ours) -> None:
        self.policy = lerobot_policy(ours.policy).train()
        self.optimizer = self.policy.config.get_optimizer_preset().build(self.policy.get_optim_params())
        self.batch = normalized(ours.policy, ours.batch)
        self.watch = _Watch(ours.policy.device)

    def step(self) -> None:
        """Forward, backward, clipping, Adam; LeRobot keeps no average."""
        self.watch.measure("LeRobot", self._step)

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.forward(self.batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 10.0)
        self.optimizer.step()


def parts(config: PolicyConfig, camera: bool, batch_size: int, rounds: int) -> dict[str, float]:
    """Measure a step and its parts in milliseconds, and LeRobot's if it is installed.

    Args:
        config: The policy.
        camera: Whether it sees a camera, or else keypoints.
        batch_size: Samples.
        rounds: The smallest time of so many counts, after one more for the memory.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours = _Ours(config, camera, batch_size, device)
    sides: list[_Ours | _Theirs] = [ours]
    with contextlib.suppress(NotHereError):
        sides.append(_Theirs(ours))
    for turn in range(rounds + 1):
        for side in sides:
            side.step()
            if turn == 0:
                side.watch.least_ms.clear()
    found = {"step": sum(ours.watch.least_ms.values()), **ours.watch.least_ms}
    for side in sides[1:]:
        found |= side.watch.least_ms
        found["ours / LeRobot"] = found["step"] / found["LeRobot"]
    return found


def checkpoint(config: PolicyConfig, camera: bool, rounds: int, on: str | None = None) -> dict[str, float]:
    """Wall milliseconds for which training waits for a checkpoint: written in the loop, or beside it.

    Args:
        config: The policy.
        camera: Whether it sees a camera, or else keypoints.
        rounds: The smallest time of so many counts, after one more for the memory.
        on: The device; None: a GPU if there is one.
    """
    device = torch.device(on or ("cuda" if torch.cuda.is_available() else "cpu"))
    ours = _Ours(config, camera, 2, device)
    ours.step()
    least: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = Checkpoints(Path(folder))
        saver = CheckpointSaver(store)
        for step in range(1, rounds + 2):
            snapshot = Snapshot(
                step=step,
                config=DiffusionConfig(policy=config),
                features=ours.policy.features,
                statistics=ours.policy.statistics(),
                model=ours.policy.state_dict(),
                ema=ours.ema.state_dict(),
                optimizer=optimizer_tensors(ours.policy, ours.optimizer),
                progress={},
            )
            for name, save in (("in the loop", store.save), ("beside it", saver.save)):
                start_s = time.perf_counter()
                save(snapshot, best=False)
                took_ms = (time.perf_counter() - start_s) * 1e3
                list(saver.release())
                least[name] = min(took_ms, least.get(name, took_ms))
        saver.close()
    return least


def main() -> None:
    """Measure, show the tables, and write JSON if it is asked for."""
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="samples per step")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="the smallest time of so many counts")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--only", default="", help="networks whose name contains this text")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    networks = NETWORKS | (GPU_NETWORKS if torch.cuda.is_available() else {})
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, (config, camera) in networks.items():
        if arguments.only not in name:
            continue
        rows = {f"batch {size}": parts(config, camera, size, arguments.rounds) for size in arguments.batches}
        console.print(_table(f"{name}: ms a step", rows))
        waits = {"checkpoint": checkpoint(config, camera, arguments.rounds)}
        console.print(_table(f"{name}: ms of waiting for a checkpoint", waits))
        results[name] = rows | waits
    if arguments.json is not None:
        everything = {"machine": machine.describe(), "steps": results}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> Table:
    from rich.table import Table

    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:,.2f}" for column in columns))
    return table


if __name__ == "__main__":
    main()
