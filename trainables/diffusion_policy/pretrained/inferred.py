"""The configuration that a checkpoint's weights show. Standard library only.

Names and shapes of tensors decide most of a network's configuration. Fields that a ``config.json`` lacks are
inferred here, and contradictions are faults that `sweeper check` reports, before a trial reads the weights.
The horizon, the noise schedule and the number of groups of GroupNorm cannot be inferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.shapes import (
    DERIVED_BUFFER,
    Shapes,
    mismatches,
    resnet_name,
    tensor_shapes,
)
from trainables.diffusion_policy.pretrained.tensor_file import read_header, read_numbers
from trainables.features import FeatureType, PolicyFeatures
from trainables.interface import Fault

__all__ = [
    "InferredConfig",
    "contradictions",
    "crop_contradiction",
    "fitting_crop",
    "infer_config",
    "infer_from_file",
    "mode_of",
    "observation_steps",
]

COMPILED = "_orig_mod."
"""The part of a name that torch.compile adds."""
STATISTICS = ("normalize_inputs.", "normalize_targets.", "unnormalize_outputs.")
"""Beginnings of the names of statistics that LeRobot before 0.4 kept among the weights."""
CELL_PIXELS = 32
"""Pixels per cell of a ResNet's last feature map."""
NORMALIZATIONS = {
    FeatureType.VISUAL: "normalization_visual",
    FeatureType.STATE: "normalization_state",
    FeatureType.ENV: "normalization_environment_state",
    FeatureType.ACTION: "normalization_action",
}
_NET = "diffusion.unet."
_ENCODER = "diffusion.rgb_encoder."
_GRID = ".pool.pos_grid"


@dataclass(frozen=True)
class InferredConfig:
    """The configuration that the weights show.

    Attributes:
        shapes: The shape of each tensor of the policy by its name, without statistics.
        fields: Fields of ``PolicyConfig`` that the shapes decide, by their name there.
        condition: Numbers that condition the U-Net, without the embedding of the timestep; None if unknown.
        action_dim: Numbers in an action; None if unknown.
        encoders: Number of image encoders.
        cells: (rows, columns) of an encoder's last feature map; None if unknown.
        modes: Normalisation of each feature by its name with underscores, from statistics among the weights.
        has_statistics: Whether there are statistics among the weights.
    """

    shapes: Shapes
    fields: Mapping[str, Any] = field(default_factory=dict)
    condition: int | None = None
    action_dim: int | None = None
    encoders: int = 0
    cells: tuple[int, int] | None = None
    modes: Mapping[str, str] = field(default_factory=dict)
    has_statistics: bool = False


def infer_from_file(file: Path) -> InferredConfig:
    """Infer a configuration from a file of weights: from its header and one small tensor.

    Raises:
        FileNotFoundError: If the file does not exist.
        TensorFileError: If it is damaged or not a file of weights.
    """
    entries = read_header(file)
    inferred = infer_config({name: entry.shape for name, entry in entries.items()})
    grid = next((name for name in entries if name.endswith(_GRID)), None)
    numbers = None if grid is None else read_numbers(file, entries, grid)
    if not numbers or len(numbers) % 2:
        return inferred
    return dataclasses.replace(inferred, cells=(len(set(numbers[1::2])), len(set(numbers[0::2]))))


def infer_config(found: Shapes) -> InferredConfig:
    """Infer a configuration from names and shapes of tensors."""
    named = {name.replace(COMPILED, ""): tuple(shape) for name, shape in found.items()}
    shapes = {name: shape for name, shape in named.items() if not name.startswith(STATISTICS)}
    unet, condition, action_dim = _unet(shapes)
    encoders, encoder = _encoder(shapes)
    modes = {}
    for name in named.keys() - shapes.keys():
        feature, _, statistic = name.partition("buffer_")[2].rpartition(".")
        if not name.startswith("normalize_targets.") and statistic in ("mean", "min"):
            modes[feature] = "MEAN_STD" if statistic == "mean" else "MIN_MAX"
    return InferredConfig(
        shapes=shapes,
        fields={**unet, **encoder},
        condition=condition,
        action_dim=action_dim,
        encoders=encoders,
        modes=modes,
        has_statistics=len(shapes) < len(named),
    )


def _unet(shapes: Shapes) -> tuple[dict[str, Any], int | None, int | None]:
    """The fields that the U-Net's shapes decide, the numbers of its condition and of an action."""
    down_dims: list[int] = []
    while len(first := shapes.get(f"{_NET}down_modules.{len(down_dims)}.0.conv1.block.0.weight", ())) == 3:
        down_dims.append(first[0])
    embedding = shapes.get(f"{_NET}diffusion_step_encoder.1.weight", ())
    if not down_dims or len(embedding) != 2:
        return {}, None, None
    _, action_dim, kernel_size = shapes[f"{_NET}down_modules.0.0.conv1.block.0.weight"]
    fields: dict[str, Any] = {
        "down_dims": down_dims,
        "kernel_size": kernel_size,
        "diffusion_step_embed_dim": embedding[1],
    }
    film = shapes.get(f"{_NET}down_modules.0.0.cond_encoder.1.weight", ())
    if len(film) != 2:
        return fields, None, action_dim
    if film[0] in (down_dims[0], 2 * down_dims[0]):
        fields["use_film_scale_modulation"] = film[0] == 2 * down_dims[0]
    return fields, film[1] - embedding[1], action_dim


def _encoder(shapes: Shapes) -> tuple[int, dict[str, Any]]:
    """The number of image encoders, and the fields that their shapes decide."""
    rest = {name.removeprefix(_ENCODER) for name in shapes if name.startswith(_ENCODER)}
    numbers = {name.partition(".")[0] for name in rest if name.partition(".")[0].isdecimal()}
    if not rest:
        return 0, {}
    prefix = f"{_ENCODER}{min(numbers, key=int)}." if numbers else _ENCODER
    fields: dict[str, Any] = {"use_separate_rgb_encoder_per_camera": bool(numbers)}
    if f"{prefix}backbone.1.weight" in shapes:
        fields["use_group_norm"] = f"{prefix}backbone.1.running_mean" not in shapes
    keypoints = shapes.get(f"{prefix}pool.nets.weight", ())
    if keypoints:
        fields["spatial_softmax_num_keypoints"] = keypoints[0]
    backbone = resnet_name(shapes, f"{prefix}backbone.")
    if backbone is not None:
        fields["vision_backbone"] = backbone
    return (len(numbers) or 1), fields


def observation_steps(inferred: InferredConfig, features: PolicyFeatures, keypoints: Any) -> int | None:
    """The observation steps, from the size of the condition; None if it does not fit the features."""
    if inferred.condition is None or not isinstance(keypoints, int):
        return None
    numbers = features.state_dim + features.environment_state_dim + 2 * keypoints * len(features.cameras)
    if numbers < 1 or inferred.condition < 1 or inferred.condition % numbers:
        return None
    return inferred.condition // numbers


def contradictions(
    file: Path, values: Mapping[str, Any], features: PolicyFeatures, inferred: InferredConfig
) -> list[Fault]:
    """The contradictions of a checkpoint's configuration to its weights.

    Args:
        file: The file of the configuration, for the messages.
        values: Its values by dotted name, complete.
        features: Its features.
        inferred: The configuration that the weights show.
    """
    faults = _feature_contradictions(file, features, inferred)
    if faults:
        return faults
    fields = dict(inferred.fields)
    if not features.cameras:
        fields = {name: value for name, value in fields.items() if name in _unet_fields(inferred)}
    keypoints = inferred.fields.get("spatial_softmax_num_keypoints", 0)
    steps = observation_steps(inferred, features, keypoints)
    if steps is not None:
        fields["n_obs_steps"] = steps
    for kind, name in NORMALIZATIONS.items():
        mode = mode_of(inferred, features, kind)
        if mode is not None:
            fields[name] = mode
    faults = [
        _contradiction(file, name, values[f"policy.{name}"], value)
        for name, value in fields.items()
        if _plain(values[f"policy.{name}"]) != _plain(value)
    ]
    if not faults and steps is None and inferred.condition is not None:
        faults = [_condition_contradiction(file, values, features, inferred, keypoints)]
    return faults or _misfits(file, values, features, inferred)


def _unet_fields(inferred: InferredConfig) -> set[str]:
    return set(_unet(inferred.shapes)[0])


def _feature_contradictions(file: Path, features: PolicyFeatures, inferred: InferredConfig) -> list[Fault]:
    """Actions of another size, and cameras without an encoder."""
    faults = []
    remedy = "Copy the config.json that belongs to the weights."
    if inferred.action_dim not in (None, features.action_dim):
        problem = f"{file} has actions of {features.action_dim} numbers, but its weights have "
        faults.append(Fault("policy.path", f"{problem}{inferred.action_dim}.", remedy))
    cameras = len(features.cameras)
    each = inferred.fields.get("use_separate_rgb_encoder_per_camera", False)
    if not inferred.shapes or (
        bool(cameras) == bool(inferred.encoders) and not (each and cameras != inferred.encoders)
    ):
        return faults
    problem = f"{file} lists {_count(cameras, 'camera')}, but its weights have "
    faults.append(Fault("policy.path", f"{problem}{_count(inferred.encoders, 'image encoder')}.", remedy))
    return faults


def _contradiction(file: Path, name: str, stated: Any, inferred: Any) -> Fault:
    return Fault(
        "policy.path",
        f"{file} has {name}: {_plain(stated)}, but its weights are those of {name}: {_plain(inferred)}.",
        f"Set {name} to {_plain(inferred)} there, or copy the config.json that belongs to the weights.",
    )


def _condition_contradiction(
    file: Path, values: Mapping[str, Any], features: PolicyFeatures, inferred: InferredConfig, keypoints: int
) -> Fault:
    steps = values["policy.n_obs_steps"]
    vectors = features.state_dim + features.environment_state_dim
    images = 2 * keypoints * len(features.cameras)
    problem = (
        f"{file} has {_count(steps, 'observation step')} of {vectors + images} numbers each "
        f"({vectors} of state, {images} of images), but its weights take {inferred.condition} in total."
    )
    remedy = (
        "Correct n_obs_steps or input_features there, or copy the config.json that belongs to the weights."
    )
    return Fault("policy.path", problem, remedy)


def _misfits(
    file: Path, values: Mapping[str, Any], features: PolicyFeatures, inferred: InferredConfig
) -> list[Fault]:
    """Tensors that are missing, unexpected or of another shape although the fields agree."""
    names = {item.name for item in dataclasses.fields(PolicyConfig)}
    stated: dict[str, Any] = {
        name.removeprefix("policy."): tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name.removeprefix("policy.") in names
    }
    expected = tensor_shapes(
        PolicyConfig(**stated),
        action_dim=features.action_dim,
        vector_dim=features.state_dim + features.environment_state_dim,
        cameras=len(features.cameras),
    )
    learnt = {name: shape for name, shape in inferred.shapes.items() if not name.endswith(DERIVED_BUFFER)}
    problems = mismatches(expected, learnt)
    if not problems:
        return []
    remedy = "Copy config.json and the weights again, from the same checkpoint."
    return [Fault("policy.path", f"the weights beside {file} do not fit it: {'; '.join(problems)}.", remedy)]


def fitting_crop(
    features: PolicyFeatures, inferred: InferredConfig, candidates: list[list[int] | None], resized: Any
) -> list[list[int] | None]:
    """The crops that give the weights' feature map; all of them if it is unknown."""
    if inferred.cells is None:
        return candidates
    return [crop for crop in candidates if _cells(_input_size(features, crop, resized)) == inferred.cells]


def crop_contradiction(
    file: Path, values: Mapping[str, Any], features: PolicyFeatures, inferred: InferredConfig
) -> Fault | None:
    """The fault if the encoders' input has another size than that of the weights."""
    if inferred.cells is None or not features.cameras:
        return None
    crop, resized = values["policy.crop_shape"], values["policy.resize_shape"]
    if any(shape is not None and len(shape) != 2 for shape in (crop, resized)):
        return None  # which the check of the fields reports
    size = _input_size(features, crop, resized)
    ratio = values.get("policy.crop_ratio", 1.0)
    if crop is None and ratio < 1.0:
        size = (int(size[0] * ratio), int(size[1] * ratio))
    if _cells(size) == inferred.cells:
        return None
    limits = [f"{CELL_PIXELS * (cells - 1) + 1} to {CELL_PIXELS * cells}" for cells in inferred.cells]
    problem = (
        f"{file} gives the image encoder {_times(size)} pixels (crop_shape: {_plain(crop)}), which make "
        f"{_times(_cells(size))} cells. Its weights are for {_times(inferred.cells)} cells (pool.pos_grid): "
        f"{limits[0]} by {limits[1]} pixels."
    )
    remedy = "Correct crop_shape there, or set policy.crop_shape to what the checkpoint was trained with."
    return Fault("policy.path", problem, remedy)


def _input_size(features: PolicyFeatures, crop: Any, resized: Any) -> tuple[int, int]:
    height, width = crop or resized or features.cameras[0].shape[1:]
    return int(height), int(width)


def _cells(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // CELL_PIXELS), -(-size[1] // CELL_PIXELS)


def mode_of(inferred: InferredConfig, features: PolicyFeatures, kind: FeatureType) -> str | None:
    """The normalisation of a type of features, from statistics among the weights."""
    names = [feature.name.replace(".", "_") for feature in features.all() if feature.type is kind]
    return next((inferred.modes[name] for name in names if name in inferred.modes), None)


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return list(value) if isinstance(value, tuple) else value


def _times(sizes: tuple[int, ...]) -> str:
    return "×".join(map(str, sizes))


def _count(number: int, one: str) -> str:
    return f"{number or 'no'} {one if number == 1 else one + 's'}"
