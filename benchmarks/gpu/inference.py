"""How long an action chunk takes: sampler, denoising steps, batch, arithmetic, compilation, acceleration.

Batch 1 is a robot's; the larger one is that of rollouts. A chunk is timed until it is back on the CPU. The
trainable predicts in float32; TF32 and bfloat16 are set by the kit around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor

from benchmarks.gpu.arithmetic import autocast, tf32
from benchmarks.gpu.cases import Case, NotHereError, Setting, Value, compared
from benchmarks.gpu.clock import median_ms
from benchmarks.gpu.materials import DEFAULT_SIZE, TINY_SIZE, build, config_of, observations, row_generators
from trainables.diffusion_policy.acceleration import AcceleratedPolicy, Backend, Precision, accelerate
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import ACTION

__all__ = ["cases"]

SAMPLERS = (("DDPM", 100), ("DDIM", 10), ("DDIM", 4), ("DPM-Solver++", 8))
QUICK_SAMPLERS = (("DDPM", 10), ("DDIM", 4), ("DPM-Solver++", 4))
BATCHES = (1, 64)
WARMUP, REPEATS = 3, 20
EAGER = "eager"
ACCELERATED: tuple[Backend, ...] = ("steps", "graph")
"""The loop over constants, launched kernel by kernel and as one graph."""
DIFFERENCES: dict[Precision, float] = {"fp32": 1e-3, "bf16": 0.1}
"""Largest differences to the plain loop in fp32, of normalised actions."""


def cases(setting: Setting) -> Iterator[Case]:
    """The accelerated paths and the plain loop in every combination, then what compilation gains."""
    samplers = QUICK_SAMPLERS if setting.quick else SAMPLERS
    precisions = ("fp32", "bf16") if setting.quick else ("fp32", "TF32", "bf16")
    for precision in precisions:
        for sampler, steps in samplers:
            for batch in BATCHES:
                yield _case(setting, sampler, steps, batch, precision, EAGER)
                for backend in ACCELERATED if precision != "TF32" else ():
                    name = f"{sampler} {steps} steps, batch {batch}, {precision}, accelerated: {backend}"
                    asked = (setting, sampler, steps, batch, precision, backend)
                    yield Case(name, partial(_measure_accelerated, *asked))
    for mode in ("default",) if setting.quick else ("reduce-overhead", "default"):
        for precision in precisions[-1:] if setting.quick else ("bf16", "fp32"):
            for batch in BATCHES[:1] if setting.quick else BATCHES:
                yield _case(setting, *samplers[1], batch, precision, mode)


def _case(setting: Setting, sampler: str, steps: int, batch: int, precision: str, mode: str) -> Case:
    # Compiling a ResNet takes minutes on a CPU.
    camera = mode == EAGER or not setting.quick
    name = f"{sampler} {steps} steps, batch {batch}, {precision}, {mode}{'' if camera else ', no camera'}"
    return Case(name, partial(_measure, setting, sampler, steps, batch, precision, mode, camera))


def _measure(
    setting: Setting, sampler: str, steps: int, batch: int, precision: str, mode: str, camera: bool
) -> Mapping[str, Value]:
    config = config_of(setting, TINY_SIZE if setting.quick else DEFAULT_SIZE)
    policy = build(config, setting.device, camera=camera).eval()
    if mode != EAGER:
        policy.compile_network(mode)
    seen = observations(policy, batch, setting.device)

    def predict() -> object:
        return policy.predict_action(
            seen, generator=row_generators(range(batch)), sampler=sampler, num_inference_steps=steps
        ).cpu()

    repeats = 3 if setting.quick else REPEATS
    with tf32(precision == "TF32"), autocast(precision, setting.device):
        took_ms = median_ms(predict, setting.device, warmup=1 if setting.quick else WARMUP, repeats=repeats)
    return {
        "ms a chunk": took_ms,
        "ms a denoising step": took_ms / steps,
        "chunks/s": batch / took_ms * 1e3,
    }


def _measure_accelerated(
    setting: Setting, sampler: str, steps: int, batch: int, precision: Precision, backend: Backend
) -> Mapping[str, Value]:
    """Compare with the plain loop in fp32 from the same noise, then time it."""
    # An untrained network that predicts noise ends at the clip, where all paths agree.
    config = config_of(setting, TINY_SIZE if setting.quick else DEFAULT_SIZE)
    config = {**config, "policy.prediction_type": "sample"}
    plain = build(config, setting.device).eval()
    seen = observations(plain, batch, setting.device)
    fast = accelerate(plain, backend, precision, batch)
    if fast.how.backend != backend:
        raise NotHereError(fast.how.why)

    def predict(policy: AcceleratedPolicy | DiffusionPolicy) -> Tensor:
        return policy.predict_action(
            seen, generator=row_generators(range(batch)), sampler=sampler, num_inference_steps=steps
        ).cpu()

    quick = setting.quick
    with tf32(False):
        expected, found = (
            plain.normalizer.normalize(ACTION, predict(each).to(plain.device)) for each in (plain, fast)
        )
        took_ms = median_ms(
            lambda: predict(fast),
            setting.device,
            warmup=1 if quick else WARMUP,
            repeats=3 if quick else REPEATS,
        )
    return compared(
        float((found - expected).abs().max()),
        DIFFERENCES[precision],
        **{"ms a chunk": took_ms, "ms a denoising step": took_ms / steps, "chunks/s": batch / took_ms * 1e3},
    )
