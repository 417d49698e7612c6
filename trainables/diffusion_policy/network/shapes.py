"""Names and shapes of a policy's weights, from its configuration alone. Standard library only.

The same as of :func:`trainables.diffusion_policy.network.policy.build_policy`, but without torch. The buffer
that follows from the configuration (``pool.pos_grid``) is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

from trainables.diffusion_policy.config.sections import PolicyConfig

__all__ = [
    "DERIVED_BUFFER",
    "Shapes",
    "encoder_count",
    "layer_of",
    "listed",
    "mismatches",
    "parameter_count",
    "reinitialised_layers",
    "resnet_name",
    "tensor_shapes",
]

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor of a state dict, by its name."""
DERIVED_BUFFER = ".pool.pos_grid"
"""Ending of the name of the buffer that follows from the size of the images and is not learnt."""
_NET = "diffusion.unet."
_ENCODER = "diffusion.rgb_encoder."
_BACKBONE = ".backbone."
# Blocks per stage of torchvision's ResNets, and how much wider a block's output is than its middle.
_RESNETS = {
    "resnet18": ((2, 2, 2, 2), 1),
    "resnet34": ((3, 4, 6, 3), 1),
    "resnet50": ((3, 4, 6, 3), 4),
    "resnet101": ((3, 4, 23, 3), 4),
}
_STEM_WIDTH = 64
_FIRST_STAGE = 4
"""Place of the first stage among a ResNet's children: after convolution, norm, ReLU and pooling."""
Tensors = Iterator[tuple[str, tuple[int, ...]]]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""BatchNorm's, which are not parameters."""
_MOST_LISTED = 8
_ENCODERS = "diffusion.rgb_encoder."


def tensor_shapes(
    policy: PolicyConfig, *, action_dim: int, vector_dim: int, cameras: int
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every learnt tensor of a policy's state dict.

    Args:
        policy: The network's configuration.
        action_dim: Numbers in an action.
        vector_dim: Numbers in the state and the environment state together.
        cameras: Number of image inputs.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    if cameras and not policy.use_separate_rgb_encoder_per_camera:
        shapes.update(_encoder(_ENCODER, policy))
    elif cameras:
        for number in range(cameras):
            shapes.update(_encoder(f"{_ENCODER}{number}.", policy))
    features = 2 * policy.spatial_softmax_num_keypoints * cameras
    condition = policy.diffusion_step_embed_dim + policy.n_obs_steps * (vector_dim + features)
    shapes.update(_unet(policy, action_dim, condition))
    return shapes


def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to: its name without the last part."""
    return tensor.rpartition(".")[0]


def reinitialised_layers(before: Shapes, wanted: Shapes, *, other_backbone: bool = False) -> list[str]:
    """The layers that cannot take their weights from a checkpoint, in order.

    A layer is reinitialised as a whole: if one of its tensors is missing or has another shape, or if the
    checkpoint's layer has additional ones (BatchNorm for GroupNorm).

    Args:
        before: The checkpoint's tensors.
        wanted: The new policy's tensors.
        other_backbone: Whether the backbone is another ResNet: then none of its layers is taken, even if a
            shape happens to fit.
    """
    known = _by_layer(before)
    return [
        layer
        for layer, tensors in _by_layer(wanted).items()
        if known.get(layer) != tensors or (other_backbone and _BACKBONE in layer)
    ]


def _by_layer(shapes: Shapes) -> dict[str, dict[str, tuple[int, ...]]]:
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if not name.endswith(DERIVED_BUFFER):
            layers.setdefault(layer_of(name), {})[name] = tuple(shape)
    return layers


def _encoder(prefix: str, policy: PolicyConfig) -> Tensors:
    keypoints = policy.spatial_softmax_num_keypoints
    _, widening = _RESNETS[policy.vision_backbone]
    yield from _resnet(f"{prefix}backbone.", policy)
    yield from _layer(f"{prefix}pool.nets", keypoints, 8 * _STEM_WIDTH * widening, 1, 1)
    yield from _layer(f"{prefix}out", 2 * keypoints, 2 * keypoints)


def _resnet(prefix: str, policy: PolicyConfig) -> Tensors:
    stages, widening = _RESNETS[policy.vision_backbone]

    def norm(name: str, channels: int) -> Tensors:
        yield from ((f"{name}.{part}", (channels,)) for part in ("weight", "bias"))
        if not policy.use_group_norm:
            yield from ((f"{name}.{part}", (channels,)) for part in ("running_mean", "running_var"))
            yield f"{name}.num_batches_tracked", ()

    yield f"{prefix}0.weight", (_STEM_WIDTH, 3, 7, 7)
    yield from norm(f"{prefix}1", _STEM_WIDTH)
    inputs = _STEM_WIDTH
    for stage, blocks in enumerate(stages):
        width = _STEM_WIDTH * 2**stage
        outputs = width * widening
        for number in range(blocks):
            block = f"{prefix}{_FIRST_STAGE + stage}.{number}."
            kernels = ((width, 3), (width, 3)) if widening == 1 else ((width, 1), (width, 3), (outputs, 1))
            before = inputs
            for position, (channels, kernel) in enumerate(kernels, start=1):
                yield f"{block}conv{position}.weight", (channels, before, kernel, kernel)
                yield from norm(f"{block}bn{position}", channels)
                before = channels
            if number == 0 and (stage > 0 or inputs != outputs):
                yield f"{block}downsample.0.weight", (outputs, inputs, 1, 1)
                yield from norm(f"{block}downsample.1", outputs)
            inputs = outputs


def _unet(policy: PolicyConfig, action_dim: int, condition: int) -> Tensors:
    kernel, embed = policy.kernel_size, policy.diffusion_step_embed_dim

    def conv_block(name: str, inputs: int, outputs: int) -> Tensors:
        yield from _layer(f"{name}.block.0", outputs, inputs, kernel)
        yield from _norm(f"{name}.block.1", outputs)

    def residual_block(name: str, inputs: int, outputs: int) -> Tensors:
        yield from conv_block(f"{name}.conv1", inputs, outputs)
        film = outputs * (2 if policy.use_film_scale_modulation else 1)
        yield from _layer(f"{name}.cond_encoder.1", film, condition)
        yield from conv_block(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            yield from _layer(f"{name}.residual_conv", outputs, inputs, 1)

    yield from _layer(f"{_NET}diffusion_step_encoder.1", 4 * embed, embed)
    yield from _layer(f"{_NET}diffusion_step_encoder.3", embed, 4 * embed)
    levels = list(itertools.pairwise((action_dim, *policy.down_dims)))
    last = len(levels) - 1
    for place, (fine, coarse) in enumerate(levels):
        yield from residual_block(f"{_NET}down_modules.{place}.0", fine, coarse)
        yield from residual_block(f"{_NET}down_modules.{place}.1", coarse, coarse)
        if place < last:
            yield from _layer(f"{_NET}down_modules.{place}.2", coarse, coarse, 3)
    for place in range(2):
        yield from residual_block(f"{_NET}mid_modules.{place}", levels[-1][1], levels[-1][1])
    for place, (fine, coarse) in enumerate(reversed(levels[1:])):
        yield from residual_block(f"{_NET}up_modules.{place}.0", 2 * coarse, fine)
        yield from residual_block(f"{_NET}up_modules.{place}.1", fine, fine)
        # Only the last level has an identity, and this loop never reaches it.
        yield from _layer(f"{_NET}up_modules.{place}.2", fine, fine, 4)
    first = levels[0][1]
    yield from conv_block(f"{_NET}final_conv.0", first, first)
    yield from _layer(f"{_NET}final_conv.1", action_dim, first, 1)


def _layer(name: str, outputs: int, *rest: int) -> Tensors:
    yield f"{name}.weight", (outputs, *rest)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, channels: int) -> Tensors:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def listed(names: Sequence[str], most: int) -> str:
    """The first names of a list, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def mismatches(expected: Shapes, found: Shapes) -> list[str]:
    """The tensors that are missing, unexpected or of another shape, a sentence each; empty if all fit."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    other = [
        f"{name} is {_size(found[name])}, expected {_size(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": other}
    return [
        f"{len(names)} {what}: {listed(names, _MOST_LISTED)}" for what, names in problems.items() if names
    ]


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


def resnet_name(shapes: Shapes, prefix: str) -> str | None:
    """The ResNet whose tensors begin with a prefix; None if it is unknown."""
    found = []
    for stage in range(4):
        blocks = 0
        while f"{prefix}{_FIRST_STAGE + stage}.{blocks}.conv1.weight" in shapes:
            blocks += 1
        found.append(blocks)
    widening = 4 if f"{prefix}{_FIRST_STAGE}.0.conv3.weight" in shapes else 1
    return next((name for name, built in _RESNETS.items() if built == (tuple(found), widening)), None)


def parameter_count(policy: PolicyConfig, *, action_dim: int, vector_dim: int, cameras: int) -> int:
    """Count the weights of a policy.

    Args:
        policy: The network's configuration.
        action_dim: Numbers in an action.
        vector_dim: Numbers in the state and the environment state together.
        cameras: Number of image inputs.
    """
    shapes = tensor_shapes(policy, action_dim=action_dim, vector_dim=vector_dim, cameras=cameras)
    return _count(shapes)


def encoder_count(policy: PolicyConfig, cameras: int) -> int:
    """Count the weights of a policy's image encoders."""
    shapes = tensor_shapes(policy, action_dim=1, vector_dim=1, cameras=cameras)
    return _count({name: shape for name, shape in shapes.items() if name.startswith(_ENCODERS)})


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_BUFFERS))
