"""What happens beside the steps of a trial: evaluations, rollouts, checkpoints, other trials on the same GPU.

The policies see states only and are small, so that what is beside them counts. The simulator sleeps 5 ms a
step.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import Case, Setting, Value, compared
from benchmarks.gpu.materials import TINY_SIZE, build, config_of, train
from benchmarks.sleeping import SLEEP_S
from benchmarks.steps import checkpoint
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.evaluation.rollout import rollout
from trainables.evaluation.stepping.choice import Stepping
from trainables.features import STATE

__all__ = ["cases"]

MIDDLE = (128, 256, 512)
SIMULATOR = "benchmarks.sleeping:Sleeping"
STATE_ONLY: dict[str, Any] = {"dataset.observations": [STATE], "policy.down_dims": [64, 128, 256]}
QUICK_STATE_ONLY: dict[str, Any] = TINY_SIZE | STATE_ONLY | {"policy.down_dims": [16, 32]}
KINDS = ("none", "inline", "beside")
STEPS, QUICK_STEPS = 3000, 30
EPISODES, QUICK_EPISODES = 50, 4
EPISODE_STEPS = 40
TOGETHER, QUICK_TOGETHER = (1, 2, 4), (1, 2)
TOGETHER_S, QUICK_TOGETHER_S = 10.0, 1.0
READY_S = 120.0
"""How long processes may take until all of them train."""
ALONE_STEPS = 20
"""Steps that each of them does before the others are waited for."""


def cases(setting: Setting) -> Iterator[Case]:
    """First trials that share the GPU: how many do is an estimate (``resources.gpu_per_worker: auto``)."""
    for name, changes in _networks(setting).items():
        for count in QUICK_TOGETHER if setting.quick else TOGETHER:
            yield Case(
                f"{name}: {count} at once", partial(_together, setting, changes, count, f"{name}-{count}")
            )
    for kind in KINDS:
        yield Case(f"training, evaluations: {kind}", partial(_evaluated, setting, kind))
    for processes in (1, 2) if setting.quick else (1, 4, 16):
        yield Case(f"rollouts, {processes} processes", partial(_rollouts, setting, processes))
    yield Case("waiting for a checkpoint", partial(_checkpoint, setting))


def _networks(setting: Setting) -> dict[str, dict[str, Any]]:
    if setting.quick:
        return {"tiny": QUICK_STATE_ONLY}
    small: dict[str, Any] = STATE_ONLY | {"policy.down_dims": [32, 64], "policy.diffusion_step_embed_dim": 32}
    middle: dict[str, Any] = STATE_ONLY | {"policy.down_dims": list(MIDDLE)}
    return {"states [32, 64]": small, "states [128, 256, 512]": middle}


def _endless(setting: Setting, changes: Mapping[str, Any]) -> dict[str, Any]:
    long = {"train.steps": 1_000_000, "train.eval_every": 1_000_000, "train.log_every": 1_000_000}
    return config_of(setting, changes, {"train.batch_size": 8 if setting.quick else 64}, long)


class _Marks:
    """Marks the ends of steps, and ends a training when a file is there."""

    def __init__(self, folder: Path, number: int) -> None:
        self._ready = folder / f"{number}.ready"
        self._stop = folder / "stop"
        self.times_s: list[float] = []

    def __call__(self) -> bool:
        self.times_s.append(time.monotonic())
        if len(self.times_s) == ALONE_STEPS:
            self._ready.touch()
        return len(self.times_s) > ALONE_STEPS and self._stop.exists()


def _train_until_stopped(config: Mapping[str, Any], setting: Setting, folder: Path, number: int) -> None:
    """Train in a process, and write when its steps ended."""
    marks = _Marks(folder, number)
    train(config, setting, f"{folder.name}-{number}", stop_requested=marks)
    (folder / f"{number}.json").write_text(json.dumps(marks.times_s))


def _together(setting: Setting, changes: Mapping[str, Any], count: int, name: str) -> Mapping[str, Value]:
    """Steps per second of several trainings on one device, while all of them train."""
    config = _endless(setting, changes)
    folder = setting.folder / f"together-{name.replace(' ', '-')}"
    folder.mkdir()
    spawning = multiprocessing.get_context("spawn")
    processes = [
        spawning.Process(target=_train_until_stopped, args=(config, setting, folder, number))
        for number in range(count)
    ]
    try:
        for process in processes:
            process.start()
        until = time.monotonic() + READY_S
        while len(list(folder.glob("*.ready"))) < count:
            ended = [process.exitcode for process in processes if process.exitcode is not None]
            if ended or time.monotonic() > until:
                raise RuntimeError(f"not all of {count} trainings started ({ended})")
            time.sleep(0.1)
        start_s = time.monotonic()
        time.sleep(QUICK_TOGETHER_S if setting.quick else TOGETHER_S)
        end_s = time.monotonic()
        (folder / "stop").touch()
        for process in processes:
            process.join(READY_S)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    marks = [json.loads((folder / f"{number}.json").read_text()) for number in range(count)]
    done = sum(start_s <= mark < end_s for times_s in marks for mark in times_s)
    need = TRAINABLE.gpu_need(config)
    return {
        "steps/s of all": done / (end_s - start_s),
        "busy, estimated": need.busy,
        "GB each, estimated": need.memory_gb,
    }


def _evaluated(setting: Setting, kind: str) -> Mapping[str, Value]:
    """Seconds from the first step to the last one, with two evaluations between them."""
    steps = QUICK_STEPS if setting.quick else STEPS
    evaluations: dict[str, Any] = {
        "dataset.holdout_fraction": 0.25,
        "train.steps": steps,
        "train.log_every": steps // 3,
        "train.eval_every": steps if kind == "none" else steps // 3,
        "train.checkpoint_every": steps // 3,
        "train.evaluation": "inline" if kind == "none" else kind,
        "eval.windows": 64,
        "eval.denoising_picture": False,
        "rollout.env": SIMULATOR,
        "rollout.max_steps": EPISODE_STEPS,
        "rollout.episodes": QUICK_EPISODES if setting.quick else EPISODES,
        "rollout.final_episodes": 1,
    }
    small = QUICK_STATE_ONLY if setting.quick else STATE_ONLY
    times_s: list[float] = []

    def stop_requested() -> bool:
        times_s.append(time.perf_counter())
        return False

    train(config_of(setting, small, evaluations), setting, f"evaluated-{kind}", stop_requested=stop_requested)
    longest = max(after - before for before, after in pairwise(times_s))
    return {"s, first step to last": times_s[-1] - times_s[0], "longest step, s": longest}


def _rollouts(setting: Setting, processes: int) -> Mapping[str, Value]:
    """Seconds of an evaluation, and that its episodes are those of a single process."""
    small = QUICK_STATE_ONLY if setting.quick else STATE_ONLY
    policy = build(config_of(setting, small), setting.device, camera=False).eval()
    episodes = QUICK_EPISODES if setting.quick else EPISODES
    took_s, rewards = [], []
    for each in (1, processes):
        start_s = time.perf_counter()
        results = rollout(
            policy,
            SIMULATOR,
            episode_indices=range(episodes),
            seed=0,
            parallel=32,
            device=setting.device,
            max_steps=EPISODE_STEPS,
            stepping=Stepping(each),
        )
        took_s.append(time.perf_counter() - start_s)
        rewards.append([result.record.sum_reward for result in results])
    difference = max(abs(one - other) for one, other in zip(*rewards, strict=True))
    asleep_s = episodes * EPISODE_STEPS * SLEEP_S
    return compared(difference, 0.0, of="largest of the episodes") | {
        "s": took_s[1],
        "of one process": took_s[1] / took_s[0],
        "asleep, s": asleep_s,
    }


def _checkpoint(setting: Setting) -> Mapping[str, Value]:
    """Milliseconds for which training waits: a checkpoint written in the loop, and on a thread."""
    policy = PolicyConfig(down_dims=(16, 32), n_groups=4) if setting.quick else PolicyConfig(down_dims=MIDDLE)
    found = checkpoint(policy, False, 1 if setting.quick else 3, setting.device)
    return {f"{name}, ms": took_ms for name, took_ms in found.items()}
