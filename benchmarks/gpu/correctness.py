"""Is it right there? Training, evaluation, resuming and the rest against the CPU, with stated tolerances.

The references are computed by the same code on the CPU in float32. Where the device itself is a CPU, its
oneDNN kernels are switched off on one side, so that rounding differs.
"""

from __future__ import annotations

import functools
import gc
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.arithmetic import PRECISIONS, another_arithmetic, autocast, tf32, train_precision
from benchmarks.gpu.cases import Case, NotHereError, Setting, Value, compared
from benchmarks.gpu.materials import (
    TINY_SIZE,
    build,
    config_of,
    observations,
    row_generators,
    train,
    training_batch,
)
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.diffusion_policy.training.checkpoint import Checkpoints, read
from trainables.diffusion_policy.training.optimizer import build_optimizer, clip_gradients
from trainables.diffusion_policy.training.train import OutOfMemoryError
from trainables.evaluation.rollout import rollout
from trainables.features import STATE
from trainables.interface import Report

__all__ = ["cases"]

BATCH = 16
ACTION_RANGE = 96.0
FP16_SCALE = 1024.0
GRADIENT_TOLERANCE = {"fp32": 1e-3, "TF32": 6e-2, "bf16": 2e-1, "fp16": 6e-2}
"""About three times what oneDNN's kernels differ from the CPU's others; TF32 has as many bits as float16."""
LOSS_TOLERANCE = {"fp32": 1e-3, "TF32": 5e-3, "bf16": 5e-2, "fp16": 2e-2}
"""Largest relative difference of any of the 8 steps' losses. Adam divides by the gradient's size, so that
rounding in a gradient near 0 becomes a step of full length: it grows from step to step."""
FIRST_EVALUATION_TOLERANCE = 1e-3
LAST_EVALUATION_TOLERANCE = 2e-2
CHECKPOINTING_TOLERANCE = 1e-5
ACCUMULATION_TOLERANCE = 1e-3
CLIP_NORM = 0.01
"""So small that every step is clipped."""
CLIPPING_TOLERANCE = 1e-5
RESUME_TOLERANCE = 1e-3
"""On a GPU, where sums of one kernel may come in another order every time; on a CPU it is 0."""
ACTION_TOLERANCE = 1e-3
"""As a share of the actions' range."""
SAMPLERS = (("DDPM", 100), ("DDIM", 10), ("DPM-Solver++", 8))
TRAINING: dict[str, Any] = {
    "dataset.holdout_fraction": 0.25,
    "train.batch_size": BATCH,
    "train.steps": 8,
    "train.log_every": 1,
    "train.eval_every": 4,
    "train.eval_at_start": True,
    "eval.windows": 32,
    "eval.num_inference_steps": 5,
}
STATE_ONLY: dict[str, Any] = {"dataset.observations": [STATE]}
HEAVY_BATCH: dict[str, Any] = STATE_ONLY | {
    "policy.down_dims": [128, 256, 512],
    "policy.n_groups": 8,
    "policy.horizon": 64,
    "train.batch_size": 512,
}
"""Activations are most of its memory, so that half the batch at once takes much less."""


def cases(setting: Setting) -> Iterator[Case]:
    """Everything that is compared, the most important first."""
    for precision in PRECISIONS:
        yield Case(f"gradients of one batch, {precision}", bind(_gradients, setting, precision))
    yield Case("gradients of one batch, PyTorch's default", bind(_gradients, setting, "default"))
    yield Case("gradient checkpointing: gradients", bind(_checkpointing, setting))
    for precision in PRECISIONS:
        yield Case(f"training, 8 steps, {precision}: losses", bind(_training, setting, precision))
    yield Case("evaluation before the first step: eval/action_mse", bind(_evaluation, setting, 0))
    yield Case("evaluation after 8 steps: eval/action_mse", bind(_evaluation, setting, -1))
    yield Case("resumed after 4 of 8 steps: weights and their average", bind(_resume, setting))
    yield Case("resumed, fp16 with its loss scale", bind(_resume, setting, "fp16"))
    yield Case("clipped by the fused optimiser, 3 steps: weights", bind(_clipping, setting))
    yield Case("accumulation, 4 passes: losses", bind(_accumulation, setting))
    yield Case("out of memory, then half the batch at once: losses", bind(_out_of_memory, setting))
    for sampler, steps in SAMPLERS:
        yield Case(f"actions, {sampler} {steps} steps", bind(_actions, setting, sampler, steps))
    yield Case("rollouts twice, 2 or 4 at once: rewards", bind(_rollouts, setting))
    for precision in ("fp32", "bf16"):
        yield Case(
            f"CUDA graph of a step, {precision}: losses and evaluations", bind(_graph, setting, precision)
        )
    yield Case("CUDA graph of a step, resumed after 4 of 8 steps: losses", bind(_resumed_graph, setting))
    for mode in ("default", "reduce-overhead"):
        yield Case(f"compiled ({mode}): losses and evaluations", bind(_compiled, setting, mode))
        yield Case(f"compiled ({mode}): actions, DPM-Solver++", bind(_compiled_actions, setting, mode))


def bind(measure: Callable[..., Mapping[str, Value]], *arguments: Any) -> Callable[[], Mapping[str, Value]]:
    """A case's measurement: full-precision arithmetic unless the measurement itself changes it."""

    def measured() -> Mapping[str, Value]:
        with tf32(False):
            return measure(*arguments)

    return measured


def _size(setting: Setting) -> dict[str, Any]:
    return TINY_SIZE if setting.quick else {"policy.crop_shape": [84, 84], "policy.down_dims": [64, 128, 256]}


def _gradients(setting: Setting, precision: str) -> Mapping[str, Value]:
    if precision in ("TF32", "default") and not setting.on_gpu:
        raise NotHereError("only a GPU has TF32")
    config = config_of(setting, _size(setting))
    reference = _gradient(build(config, "cpu"), "fp32", "cpu")
    with ExitStack() as arithmetic:
        if precision == "default":
            # As the service trains: TF32 in convolutions, not in matrix products.
            torch.backends.cudnn.allow_tf32 = True
        elif precision == "TF32":
            arithmetic.enter_context(tf32(True))
        arithmetic.enter_context(another_arithmetic(setting.device))
        found = _gradient(build(config, setting.device), precision, setting.device)
    tolerance = GRADIENT_TOLERANCE["TF32" if precision == "default" else precision]
    return compared(_distance(found, reference), tolerance, of="norm of the difference / norm")


def _gradient(policy: DiffusionPolicy, precision: str, device: str) -> list[Tensor]:
    """The gradient of one batch; that of fp16 is scaled, as in training, so as not to vanish."""
    scale = FP16_SCALE if precision == "fp16" else 1.0
    batch = training_batch(policy, BATCH, device)
    with autocast(precision, device):
        loss = policy.loss(
            batch,
            noise=batch["noise"],
            timesteps=batch["timesteps"],
            generator=torch.Generator().manual_seed(0),
        )
    (loss * scale).backward()
    return [p.grad.float().cpu() / scale for p in policy.parameters() if p.grad is not None]


def _distance(found: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Norm of the difference as a share of the norm, over all tensors together, in double precision."""
    pairs = list(zip(found, reference, strict=True))
    difference = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs)
    return float((difference / max(sum(float(b.double().square().sum()) for _, b in pairs), 1e-300)) ** 0.5)


def _checkpointing(setting: Setting) -> Mapping[str, Value]:
    gradients = []
    for enabled in (False, True):
        policy = build(config_of(setting, _size(setting)), setting.device)
        policy.set_gradient_checkpointing(enabled)
        gradients.append(_gradient(policy, "fp32", setting.device))
    return compared(
        _distance(gradients[1], gradients[0]), CHECKPOINTING_TOLERANCE, of="norm of the difference / norm"
    )


@functools.cache
def _reference(setting: Setting) -> list[Report]:
    """The run on the CPU, in float32."""
    return train(config_of(setting, _size(setting), TRAINING), setting, "reference", device="cpu")


@functools.cache
def _straight(setting: Setting, precision: str) -> list[Report]:
    """The same run on the device, in its own precision."""
    changes = {"train.precision": train_precision(precision)}
    with another_arithmetic(setting.device), tf32(precision == "TF32"):
        return train(config_of(setting, _size(setting), TRAINING, changes), setting, f"straight-{precision}")


def _training(setting: Setting, precision: str) -> Mapping[str, Value]:
    if precision == "TF32" and not setting.on_gpu:
        raise NotHereError("only a GPU has TF32")
    found, reference = _straight(setting, precision), _reference(setting)
    return compared(
        _worst_loss(found, reference), LOSS_TOLERANCE[precision], of="largest of 8 losses, relative"
    )


def _worst_loss(found: Sequence[Report], reference: Sequence[Report]) -> float:
    """The largest relative difference of two runs' losses, over the steps that both report."""
    losses = {r.step: r.metrics["train/loss"] for r in reference if "train/loss" in r.metrics}
    shared = [(r.metrics["train/loss"], losses[r.step]) for r in found if "train/loss" in r.metrics]
    return max(abs(loss - expected) / abs(expected) for loss, expected in shared)


def _evaluation(setting: Setting, which: int) -> Mapping[str, Value]:
    errors = [
        [report.metrics["eval/action_mse"] for report in run if "eval/action_mse" in report.metrics][which]
        for run in (_straight(setting, "fp32"), _reference(setting))
    ]
    tolerance = FIRST_EVALUATION_TOLERANCE if which == 0 else LAST_EVALUATION_TOLERANCE
    return compared(abs(errors[0] - errors[1]) / errors[1], tolerance, of="relative")


def _resume(setting: Setting, precision: str = "fp32") -> Mapping[str, Value]:
    config = config_of(setting, _size(setting), TRAINING, {"train.precision": precision})
    name = f"cut-{precision}"
    _straight(setting, precision)
    with another_arithmetic(setting.device):
        # Reports at steps 0 to 4, of which the last is an evaluation; then the process is gone.
        train(config, setting, name, reports=5)
        train(config, setting, name)
    found, expected = (_tensors(setting, trial) for trial in (name, f"straight-{precision}"))
    tolerance = RESUME_TOLERANCE if setting.on_gpu else 0.0
    distances = {
        group: _distance([found[group][n] for n in expected[group]], list(expected[group].values()))
        for group in expected
    }
    worst = max(distances, key=lambda group: distances[group])
    return compared(distances[worst], tolerance, of=f"norm of the difference / norm ({worst})")


def _tensors(setting: Setting, trial: str) -> dict[str, Mapping[str, Tensor]]:
    last = Checkpoints(setting.folder / "trials" / trial / "checkpoints").find("last")
    if last is None:
        raise FileNotFoundError(f"the trial {trial} has no checkpoint")
    snapshot = read(last)
    return {"weights": snapshot.model, "average": snapshot.ema or {}}


def _clipping(setting: Setting) -> Mapping[str, Value]:
    """Clip by multiplying the gradients, and in the optimiser, which divides them."""
    found = []
    for folded in (False, True):
        policy = build(config_of(setting, _size(setting)), setting.device)
        optimizer = build_optimizer(policy, DiffusionConfig().optimizer)
        for seed in range(3):
            optimizer.zero_grad(set_to_none=True)
            batch = training_batch(policy, BATCH, setting.device, seed)
            crops = torch.Generator().manual_seed(seed)
            policy.loss(batch, batch["noise"], batch["timesteps"], crops).backward()
            clip_gradients(policy, CLIP_NORM, optimizer if folded else None)
            optimizer.step()
        found.append([parameter.detach().cpu() for parameter in policy.parameters()])
    return compared(_distance(found[1], found[0]), CLIPPING_TOLERANCE, of="norm of the difference / norm")


def _accumulation(setting: Setting) -> Mapping[str, Value]:
    changes = {"train.gradient_accumulation_steps": 4, "train.steps": 8}
    with another_arithmetic(setting.device):
        parts = train(config_of(setting, _size(setting), TRAINING, changes), setting, "accumulated")
    difference = _worst_loss(parts, _straight(setting, "fp32"))
    return compared(difference, ACCUMULATION_TOLERANCE, of="largest of 8 losses, relative")


class _Pressure:
    """Lets a run have too little memory from a step on.

    On a GPU the process may from then on hold only ``limit`` bytes; on a CPU the error itself is raised,
    since the system would end the process instead.
    """

    def __init__(self, setting: Setting, step: int, limit: int) -> None:
        self._setting = setting
        self._left = step
        self._limit = limit

    def __call__(self) -> bool:
        self._left -= 1
        if self._left != 0:
            return False
        if not self._setting.on_gpu:
            raise torch.OutOfMemoryError("simulated by the kit")
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self._setting.device).total_memory
        torch.cuda.set_per_process_memory_fraction(self._limit / total, self._setting.device)
        return False


def _out_of_memory(setting: Setting) -> Mapping[str, Value]:
    """Run out of memory at step 6, continue from step 4 in twice as many passes under the same limit."""
    config = config_of(setting, _size(setting), TRAINING, HEAVY_BATCH if setting.on_gpu else STATE_ONLY)
    lighter = TRAINABLE.lighter(config)
    if lighter is None:
        raise RuntimeError("the batch cannot be halved")
    straight, whole = _with_peak(setting, config, "memory-straight")
    _, halved = _with_peak(setting, lighter, "memory-lighter")
    limit = (whole + halved) // 2
    try:
        reason = _failure(setting, config, _Pressure(setting, 5, limit))
        gc.collect()
        if setting.on_gpu:
            torch.cuda.empty_cache()
        resumed = train(lighter, setting, "memory-cut")
    finally:
        if setting.on_gpu:
            torch.cuda.set_per_process_memory_fraction(1.0, setting.device)
    if [report.step for report in resumed] != [4, 5, 6, 7, 8]:
        raise RuntimeError(f"it continued with the steps {[report.step for report in resumed]}")
    values = compared(_worst_loss(resumed, straight), ACCUMULATION_TOLERANCE, of="losses, relative")
    if setting.on_gpu:
        values |= {"peak GB": whole / 1e9, "halved GB": halved / 1e9}
    return values | {"reason": reason}


def _with_peak(setting: Setting, config: Mapping[str, Any], name: str) -> tuple[list[Report], int]:
    """A whole run, and how much memory the allocator held; 0 on a CPU."""
    if not setting.on_gpu:
        return train(config, setting, name), 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    reports = train(config, setting, name)
    return reports, torch.cuda.max_memory_reserved()


def _failure(setting: Setting, config: Mapping[str, Any], pressure: Callable[[], bool]) -> str:
    """The reason with which a run under pressure ends."""
    try:
        train(config, setting, "memory-cut", stop_requested=pressure)
    except OutOfMemoryError as error:
        if "train.gradient_accumulation_steps" not in str(error):
            raise
        return error.reason
    raise RuntimeError("it did not run out of memory")


def _actions(setting: Setting, sampler: str, steps: int) -> Mapping[str, Value]:
    config = config_of(setting, _size(setting))
    chunks: list[Tensor] = []
    for device in ("cpu", setting.device):
        arithmetic = another_arithmetic(setting.device if chunks else "cuda")
        policy = build(config, device).eval()
        with arithmetic:
            chunks.append(_chunk(policy, device, sampler, steps))
    return _compared_actions(chunks)


def _chunk(policy: DiffusionPolicy, device: str, sampler: str, steps: int) -> Tensor:
    return policy.predict_action(
        observations(policy, BATCH, device),
        generator=row_generators(range(BATCH)),
        sampler=sampler,
        num_inference_steps=steps,
    ).cpu()


def _compared_actions(chunks: Sequence[Tensor]) -> Mapping[str, Value]:
    difference = float((chunks[1] - chunks[0]).abs().max()) / ACTION_RANGE
    return compared(difference, ACTION_TOLERANCE, of="largest, as a share of the actions' range")


def _rollouts(setting: Setting) -> Mapping[str, Value]:
    policy = build(config_of(setting, _size(setting)), setting.device).eval()
    rewards = [
        [
            episode.record.sum_reward
            for episode in rollout(
                policy,
                "gym_pusht/PushT-v0",
                episode_indices=range(4),
                seed=0,
                parallel=parallel,
                device=setting.device,
                max_steps=24,
            )
        ]
        for parallel in (2, 4)
    ]
    difference = max(abs(one - other) for one, other in zip(*rewards, strict=True))
    return compared(difference, 0.0, of="largest of 4 episodes")


def _compiled(setting: Setting, mode: str) -> Mapping[str, Value]:
    _check_mode(setting, mode)
    small = STATE_ONLY if setting.quick else {}
    config = config_of(setting, _size(setting), TRAINING, small, {"train.steps": 4})
    eager = train(config, setting, f"eager-{mode}")
    compiled = config | {"train.compile": True, "train.compile_mode": mode}
    return _compared_runs(train(compiled, setting, f"compiled-{mode}"), eager)


def _compared_runs(found: Sequence[Report], plain: Sequence[Report]) -> Mapping[str, Value]:
    errors = [
        abs(report.metrics["eval/action_mse"] / expected.metrics["eval/action_mse"] - 1)
        for report, expected in zip(found, plain, strict=True)
        if "eval/action_mse" in expected.metrics
    ]
    return compared(
        max(_worst_loss(found, plain), *errors), LAST_EVALUATION_TOLERANCE, of="losses and errors, relative"
    )


def _graph(setting: Setting, precision: str) -> Mapping[str, Value]:
    _check_mode(setting, "reduce-overhead")
    changes = {"train.precision": precision, "train.compile": "graph"}
    found = train(config_of(setting, _size(setting), TRAINING, changes), setting, f"graph-{precision}")
    return _compared_runs(found, _straight(setting, precision))


def _resumed_graph(setting: Setting) -> Mapping[str, Value]:
    _check_mode(setting, "reduce-overhead")
    config = config_of(setting, _size(setting), TRAINING, {"train.compile": "graph"})
    train(config, setting, "graph-cut", reports=5)
    found = train(config, setting, "graph-cut")
    difference = _worst_loss(found, _straight(setting, "fp32"))
    return compared(difference, LAST_EVALUATION_TOLERANCE, of="largest of the losses, relative")


def _compiled_actions(setting: Setting, mode: str) -> Mapping[str, Value]:
    """The multi-step solver keeps what the network said a step ago, which a CUDA graph writes over."""
    _check_mode(setting, mode)
    config = config_of(setting, _size(setting), {"policy.prediction_type": "sample"})
    chunks = []
    for compiled in (False, True):
        policy = build(config, setting.device, camera=not setting.quick).eval()
        if compiled:
            policy.compile_network(mode)
        chunks.append(_chunk(policy, setting.device, "DPM-Solver++", 8))
    return _compared_actions(chunks)


def _check_mode(setting: Setting, mode: str) -> None:
    if mode == "reduce-overhead" and not setting.on_gpu:
        raise NotHereError("only a GPU has CUDA graphs")
    if not setting.on_gpu and shutil.which("g++") is None:
        raise NotHereError("torch.compile needs a C++ compiler")
