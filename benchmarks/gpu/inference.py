"""How long an action chunk takes: sampler, denoising steps, batch, arithmetic, compilation.

Batch 1 is a robot's; the larger one is that of rollouts. A chunk is timed until it is back on the CPU. The
trainable predicts in float32; TF32 and bfloat16 are set by the kit around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from benchmarks.gpu.arithmetic import autocast, tf32
from benchmarks.gpu.cases import Case, Setting, Value
from benchmarks.gpu.clock import median_ms
from benchmarks.gpu.materials import DEFAULT_SIZE, TINY_SIZE, build, config_of, observations, row_generators

__all__ = ["cases"]

SAMPLERS = (("DDPM", 100), ("DDIM", 10), ("DDIM", 4), ("DPM-Solver++", 8))
QUICK_SAMPLERS = (("DDPM", 10), ("DDIM", 4), ("DPM-Solver++", 4))
BATCHES = (1, 64)
WARMUP, REPEATS = 3, 20
EAGER = "eager"


def cases(setting: Setting) -> Iterator[Case]:
    """Eager in every combination, then what compilation and CUDA graphs gain."""
    samplers = QUICK_SAMPLERS if setting.quick else SAMPLERS
    precisions = ("fp32", "bf16") if setting.quick else ("fp32", "TF32", "bf16")
    for precision in precisions:
        for sampler, steps in samplers:
            for batch in BATCHES:
                yield _case(setting, sampler, steps, batch, precision, EAGER)
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
