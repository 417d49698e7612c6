"""What a training step asks of a GPU, from the configuration alone. Standard library only.

These are estimates, by which trials share a GPU. No GPU has confirmed them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.shapes import tensor_shapes

__all__ = ["StepNeed", "step_need"]

FLOPS = 10e12
"""Operations per second of a GPU of the middle class in small kernels: a third of its TF32 peak."""
BYTES_PER_S = 500e9
"""Memory traffic of such a GPU."""
LAUNCHES_MS = 5.0
"""Time that the CPU takes to launch a step's kernels: some thousand, at a few microseconds each."""
BYTES_MOVED = 64
"""Memory traffic per weight and step: forward, backward, clipping, AdamW and the average."""
KEPT_PER_OUTPUT = 4
"""Tensors of the size of a convolution's output that are kept for the backward pass: it, the norm, the
activation, and a modulation or a sum."""
BYTES = 4
OPERATIONS = 6
"""Of a weight at a position: a multiplication and an addition, forward once and backward twice."""


@dataclass(frozen=True)
class StepNeed:
    """What a step needs.

    Attributes:
        weights: Number of the weights of convolutions and linear layers, which are nearly all.
        operations: Multiplications and additions of these layers.
        activations_gb: Memory that a backward pass needs from the forward pass.
        busy: Share of the time that a GPU of the middle class would compute, from 0 to 1. In the rest it
            waits for launches.
    """

    weights: int
    operations: int
    activations_gb: float
    busy: float


@dataclass(frozen=True)
class _Layer:
    """A layer's weights, and for one sample the positions at which it computes, and its outputs."""

    weights: int
    positions: int
    outputs: int


def step_need(
    policy: PolicyConfig,
    *,
    batch_size: int,
    passes: int,
    action_dim: int,
    vector_dim: int,
    cameras: int,
    image: tuple[int, int],
) -> StepNeed:
    """Estimate what a plain step needs.

    Args:
        policy: The network's configuration.
        batch_size: Samples per step.
        passes: Equal parts in which they go through the network.
        action_dim: Numbers in an action.
        vector_dim: Numbers in the state and the environment state together.
        cameras: Number of image inputs.
        image: (height, width) of the images that the encoders get.
    """
    shapes = tensor_shapes(policy, action_dim=action_dim, vector_dim=vector_dim, cameras=cameras)
    layers = list(_layers(policy, shapes, cameras, image))
    weights = sum(layer.weights for layer in layers)
    operations = OPERATIONS * batch_size * sum(layer.weights * layer.positions for layer in layers)
    outputs = sum(layer.outputs for layer in layers)
    work_ms = 1e3 * max(operations / FLOPS, passes * BYTES_MOVED * weights / BYTES_PER_S)
    # Each pass is launched.
    launches_ms = passes * LAUNCHES_MS
    return StepNeed(
        weights,
        operations,
        BYTES * KEPT_PER_OUTPUT * outputs * batch_size / passes / 1e9,
        work_ms / max(launches_ms, work_ms),
    )


def _layers(
    policy: PolicyConfig, shapes: dict[str, tuple[int, ...]], cameras: int, image: tuple[int, int]
) -> Iterator[_Layer]:
    shared = not policy.use_separate_rgb_encoder_per_camera
    for name, shape in shapes.items():
        if not name.endswith(".weight") or len(shape) < 2:
            continue
        if name.startswith("diffusion.unet."):
            positions = _unet_positions(policy, name) if len(shape) > 2 else 1
        else:
            images = policy.n_obs_steps * (cameras if shared else 1)
            positions = images * (_encoder_positions(name, image) if len(shape) > 2 else 1)
        yield _Layer(math.prod(shape), positions, shape[0] * positions)


def _unet_positions(policy: PolicyConfig, name: str) -> int:
    """Action steps of the level to which a convolution of the U-Net belongs."""
    _, _, room, place, *_ = name.split(".")
    lowest = len(policy.down_dims) - 1
    level = {
        "down_modules": lambda: int(place),
        "mid_modules": lambda: lowest,
        "up_modules": lambda: lowest - int(place),
    }.get(room, lambda: 0)()
    return max(1, policy.horizon >> level)


def _encoder_positions(name: str, image: tuple[int, int]) -> int:
    """Pixels of the output of an encoder's convolution."""
    _, _, rest = name.partition(".backbone.")
    child = int(rest.split(".")[0]) if rest else 7
    # The first convolution halves the image, and so do the pooling and each stage but the first.
    stride = 2 if child == 0 else 2 ** (child - 2)
    return math.prod(-(-side // stride) for side in image)
