"""LeRobot's ``config.json`` of a diffusion policy as this project's fields. Standard library only.

LeRobot writes every key that its version knows and reads a missing one as the default of the version that
reads. A missing key is taken here from LeRobot's ``train_config.json`` beside it, or else from the weights,
or else it is the default of the version that the other keys show. Notes list all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS
from trainables.diffusion_policy.pretrained.inferred import (
    InferredConfig,
    fitting_crop,
    mode_of,
    observation_steps,
)
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures

__all__ = [
    "NORMALIZATION_FIELDS",
    "POLICY_FIELDS",
    "TARGETS",
    "InvalidConfigError",
    "LerobotConfig",
    "check_values",
    "read_lerobot_config",
    "read_normalization",
]

TARGETS = ("lerobot==0.4.4", "lerobot==0.6.1")
"""Versions of LeRobot whose format can be written, the default first."""

POLICY_FIELDS = (
    "n_obs_steps",
    "horizon",
    "n_action_steps",
    "vision_backbone",
    "resize_shape",
    "crop_ratio",
    "crop_shape",
    "crop_is_random",
    "pretrained_backbone_weights",
    "use_group_norm",
    "spatial_softmax_num_keypoints",
    "use_separate_rgb_encoder_per_camera",
    "down_dims",
    "kernel_size",
    "n_groups",
    "diffusion_step_embed_dim",
    "use_film_scale_modulation",
    "noise_scheduler_type",
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "num_inference_steps",
    "do_mask_loss_for_padding",
)
"""Fields that are called the same here, as ``policy.<field>``."""

NORMALIZATION_FIELDS = {
    FeatureType.VISUAL: "policy.normalization_visual",
    FeatureType.STATE: "policy.normalization_state",
    FeatureType.ENV: "policy.normalization_environment_state",
    FeatureType.ACTION: "policy.normalization_action",
}

_OPTIMIZER_FIELDS = {
    "optimizer_lr": "optimizer.lr",
    "optimizer_betas": "optimizer.betas",
    "optimizer_eps": "optimizer.eps",
    "optimizer_weight_decay": "optimizer.weight_decay",
}
_DEFAULTS: dict[str, Any] = {
    "n_obs_steps": 2,
    "horizon": 16,
    "n_action_steps": 8,
    "vision_backbone": "resnet18",
    "resize_shape": None,
    "crop_ratio": 1.0,
    "crop_shape": None,
    "crop_is_random": True,
    "pretrained_backbone_weights": None,
    "use_group_norm": True,
    "spatial_softmax_num_keypoints": 32,
    "use_separate_rgb_encoder_per_camera": False,
    "down_dims": [512, 1024, 2048],
    "kernel_size": 5,
    "n_groups": 8,
    "diffusion_step_embed_dim": 128,
    "use_film_scale_modulation": True,
    "noise_scheduler_type": "DDPM",
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "num_inference_steps": None,
    "do_mask_loss_for_padding": False,
}
_BEFORE_0_4, _0_4, _0_6 = "LeRobot before 0.4", "LeRobot 0.4", "LeRobot 0.6"
_DEFAULTS_0_6 = {
    "horizon": 64,
    "n_action_steps": 32,
    "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
    "use_group_norm": False,
    "use_separate_rgb_encoder_per_camera": True,
}
_DEFAULTS_BEFORE_0_4 = {"crop_shape": [84, 84]}
_VERSIONS: dict[str, Mapping[str, Any]] = {
    _BEFORE_0_4: {**_DEFAULTS, **_DEFAULTS_BEFORE_0_4},
    _0_4: _DEFAULTS,
    _0_6: {**_DEFAULTS, **_DEFAULTS_0_6},
}
"""The value of a missing key, by the version that wrote the file."""
_KEYS_FROM_0_6 = ("gradient_checkpointing", "pretrained_revision")
_KEYS_FROM_0_4_4 = ("resize_shape", "crop_ratio", "compile_model", "compile_mode", "use_peft")
_OF_IMAGES = {
    *("vision_backbone", "resize_shape", "crop_ratio", "crop_shape", "crop_is_random"),
    *("pretrained_backbone_weights", "use_group_norm", "spatial_softmax_num_keypoints"),
    "use_separate_rgb_encoder_per_camera",
}
"""Fields that mean nothing to a policy without cameras."""
_DEFAULT_NORMALIZATION = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"}

_NOT_OF_THE_POLICY = {
    *("type", "device", "use_amp", "push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path"),
    *("use_peft", "compile_model", "compile_mode", *_KEYS_FROM_0_6),
}
"""Settings of LeRobot's run, which do not concern the weights."""

# LeRobot passes these names to diffusers, whose `constant` has no warmup.
_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant_with_warmup": "constant"}

MOST_FEATURES = 64
MOST_LEVELS = 12
MOST_SIZE = 1_000_000
"""The largest value that decides a network's size: far above usual values, far below an overflow."""
MOST_PIXELS = 16_384


@dataclass(frozen=True)
class LerobotConfig:
    """A ``config.json`` as this project's fields.

    Attributes:
        values: Its values by dotted name.
        features: What the policy sees and does.
        deciles: Types of features that are normalised by their 10th and 90th percentile.
        notes: What was ignored, or changed.
    """

    values: dict[str, Any]
    features: PolicyFeatures
    deciles: frozenset[str]
    notes: list[str]


class InvalidConfigError(ValueError):
    """A ``config.json`` that is not a diffusion policy, or one that cannot be built here."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(problem)


def read_lerobot_config(
    stated: Mapping[str, Any],
    *,
    before_0_4: bool = False,
    inferred: InferredConfig | None = None,
    training: Mapping[str, Any] | None = None,
) -> LerobotConfig:
    """Read a ``config.json``.

    Args:
        stated: Its content.
        before_0_4: Whether LeRobot before 0.4 wrote it, according to the files beside it.
        inferred: The configuration that the weights beside it show; None if they are missing.
        training: The policy's section of ``train_config.json`` beside it.

    Raises:
        InvalidConfigError: If it is of another policy, or has values that cannot be built.
    """
    kind = stated.get("type")
    if kind != "diffusion":
        if kind is None and "input_shapes" in stated:
            remedy = "Convert it with LeRobot's migration script of that time, or use a newer checkpoint."
            raise InvalidConfigError(
                "it has input_shapes, the format of LeRobot before 2025, which is not supported.", remedy
            )
        raise InvalidConfigError(
            f"its type is {_short(kind)}.", "Expected 'diffusion': only a Diffusion Policy can be loaded."
        )
    notes: list[str] = []
    features = _read_features(stated, notes)
    values = _read_policy(Source(stated, training or {}, inferred, features, before_0_4), notes)
    mapping = {**(training or {}), **stated}.get("normalization_mapping")
    modes, deciles = read_normalization(_DEFAULT_NORMALIZATION if mapping is None else mapping)
    values |= modes
    if mapping is None:
        values |= _inferred_modes(inferred, features, before_0_4, notes)
    values |= _read_training(stated, notes)
    check_values(values)
    _execute_what_there_is(values, notes)
    _note_rest(stated, values, notes)
    return LerobotConfig(values, features, deciles, notes)


@dataclass(frozen=True)
class Source:
    """The sources of a policy's fields.

    Attributes:
        stated: The content of ``config.json``.
        training: The policy's section of ``train_config.json``.
        inferred: The configuration that the weights show; None if they are missing.
        features: What the policy sees and does.
        before_0_4: Whether LeRobot before 0.4 wrote it, according to the files beside it.
    """

    stated: Mapping[str, Any]
    training: Mapping[str, Any]
    inferred: InferredConfig | None
    features: PolicyFeatures
    before_0_4: bool

    @property
    def version(self) -> str:
        """The version that wrote ``config.json``, according to its keys."""
        if any(key in self.stated for key in _KEYS_FROM_0_6):
            return _0_6
        if any(key in self.stated for key in _KEYS_FROM_0_4_4) or not self.before_0_4:
            return _0_4
        return _BEFORE_0_4

    def was_written(self, name: str) -> bool:
        """Whether the version that wrote ``config.json`` writes a field, and the policy uses it."""
        if name in _OF_IMAGES and not self.features.cameras:
            return False
        newer = any(key in self.stated for key in (*_KEYS_FROM_0_4_4, *_KEYS_FROM_0_6))
        return newer or name not in _KEYS_FROM_0_4_4


def _read_policy(source: Source, notes: list[str]) -> dict[str, Any]:
    defaults = _VERSIONS[source.version]
    inferred = _inferred_fields(source, defaults)
    places = {"config.json": source.stated, "train_config.json": source.training, "the weights": inferred}
    read: dict[str, Any] = {}
    taken: dict[str, list[str]] = {}
    for name in POLICY_FIELDS:
        place = next((place for place, values in places.items() if name in values), None)
        read[name] = defaults[name] if place is None else places[place][name]
        if place != "config.json" and source.was_written(name):
            taken.setdefault(place or "", []).append(name)
    notes += [
        f"config.json lacks {', '.join(names)}. Taken from {place}: {_assigned(names, read)}."
        for place, names in taken.items()
        if place
    ]
    if "" in taken:
        notes.append(_filled(taken[""], read, source))
    # LeRobot uses crop_ratio only with resize_shape, and then ignores crop_shape.
    resized, ratio = read["resize_shape"], read["crop_ratio"]
    if resized is None:
        read["crop_ratio"] = 1.0
    elif ratio == 1.0:
        read["crop_shape"] = None
    elif _are_numbers(resized) and _are_numbers([ratio]):
        read["crop_shape"] = [int(size * ratio) for size in resized]
    return {f"policy.{name}": value for name, value in read.items()}


def _inferred_fields(source: Source, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the weights show."""
    inferred = source.inferred
    if inferred is None:
        return {}
    sees = bool(source.features.cameras)
    fields = {name: value for name, value in inferred.fields.items() if sees or name not in _OF_IMAGES}
    steps = observation_steps(
        inferred, source.features, inferred.fields.get("spatial_softmax_num_keypoints", 0)
    )
    if steps is not None:
        fields["n_obs_steps"] = steps
    resized = source.stated.get("resize_shape")
    if sees and inferred.cells is not None and (resized is None or _is_size(resized)):
        fitting = fitting_crop(source.features, inferred, [defaults["crop_shape"], None], resized)
        if fitting and fitting[0] != defaults["crop_shape"]:
            fields["crop_shape"] = fitting[0]
    return fields


def _filled(names: Sequence[str], read: Mapping[str, Any], source: Source) -> str:
    """A note on the defaults that were used, and of which version they are."""
    reason = "The weights do not show them" if source.inferred is not None else "The weights were not read"
    return (
        f"config.json lacks {', '.join(names)}. The defaults of {source.version} are used: "
        f"{', '.join(_default(name, read[name]) for name in names)}. {reason}. Set "
        f"{', '.join(f'policy.{name}' for name in names)} if the checkpoint was trained with others."
    )


def _default(name: str, value: Any) -> str:
    """A default, and that of other versions if it differs."""
    others = {other: defaults[name] for other, defaults in _VERSIONS.items() if defaults[name] != value}
    listed = "; ".join(f"{other}: {_short(default)}" for other, default in others.items())
    return f"{name} {_short(value)}" + (f" ({listed})" if listed else "")


def _assigned(names: Sequence[str], read: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_short(read[name])}" for name in names)


def _inferred_modes(
    inferred: InferredConfig | None, features: PolicyFeatures, before_0_4: bool, notes: list[str]
) -> dict[str, str]:
    """The normalisations that statistics among the weights show, if ``config.json`` has no mapping."""
    if not before_0_4:
        return {}  # the processors define them
    modes = {
        field: mode
        for kind, field in NORMALIZATION_FIELDS.items()
        if inferred is not None and (mode := mode_of(inferred, features, kind)) is not None
    }
    if modes:
        listed = ", ".join(f"{field} {mode}" for field, mode in modes.items())
        notes.append(f"config.json lacks normalization_mapping. Taken from the weights: {listed}.")
    else:
        notes.append(
            "config.json lacks normalization_mapping. LeRobot's defaults are used: images MEAN_STD, state "
            "and action MIN_MAX. The weights do not show them. Set policy.normalization_action and the "
            "others if the checkpoint was trained with others."
        )
    return modes


def _execute_what_there_is(values: dict[str, Any], notes: list[str]) -> None:
    """LeRobot executes as many actions as the horizon allows, if ``n_action_steps`` is larger."""
    horizon, steps, asked = (
        values[f"policy.{name}"] for name in ("horizon", "n_obs_steps", "n_action_steps")
    )
    available = horizon - steps + 1
    if asked > available >= 1:
        values["policy.n_action_steps"] = available
        notes.append(
            f"n_action_steps is {asked}, but horizon {horizon} with n_obs_steps {steps} allows {available} "
            f"actions. LeRobot executes {available}, so n_action_steps {available} is used."
        )


def _is_size(value: Any) -> bool:
    return _are_numbers(value) and len(value) == 2


def _are_numbers(values: Any) -> bool:
    """Whether it is a list of numbers that are small enough to be multiplied."""
    return isinstance(values, list) and all(
        isinstance(n, (int, float)) and abs(n) <= MOST_SIZE for n in values
    )


def read_normalization(mapping: Any) -> tuple[dict[str, str], frozenset[str]]:
    """Read a mapping of feature types to normalisations (``normalization_mapping``, ``norm_map``).

    Returns:
        The normalisations by dotted name, and the types that are QUANTILE10, which is QUANTILES with other
        percentiles.

    Raises:
        InvalidConfigError: If it is not a mapping of known normalisations.
    """
    if not isinstance(mapping, dict):
        raise InvalidConfigError(f"its normalisations are {_short(mapping)}, not a mapping.")
    # LeRobot has no entry for ENV, and does not normalise features without one.
    stated = {kind.value: mapping.get(kind.value, "IDENTITY") for kind in NORMALIZATION_FIELDS}
    deciles = frozenset(kind for kind, mode in stated.items() if mode == "QUANTILE10")
    values = {}
    for kind, field in NORMALIZATION_FIELDS.items():
        mode = "QUANTILES" if kind.value in deciles else stated[kind.value]
        if FIELDS[field].faults(mode):
            raise InvalidConfigError(
                f"the normalisation of {kind.value} is {_short(mode)}.",
                f"Expected {FIELDS[field].expected()}.",
            )
        values[field] = mode
    return values, deciles


def _read_training(stated: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    values = {ours: stated[theirs] for theirs, ours in _OPTIMIZER_FIELDS.items() if theirs in stated}
    if "scheduler_warmup_steps" in stated:
        values["lr_scheduler.warmup_steps"] = stated["scheduler_warmup_steps"]
    name = stated.get("scheduler_name")
    if name == "constant":
        values |= {"lr_scheduler.name": "constant", "lr_scheduler.warmup_steps": 0}
    elif isinstance(name, str) and name in _SCHEDULERS:
        values["lr_scheduler.name"] = _SCHEDULERS[name]
    elif name is not None:
        notes.append(f"scheduler_name {_short(name)} is unknown here and was ignored.")
    return values


def _read_features(stated: Mapping[str, Any], notes: list[str]) -> PolicyFeatures:
    listed: list[Feature] = []
    for group in ("input_features", "output_features"):
        entries = stated.get(group)
        if not isinstance(entries, dict) or not entries or len(entries) > MOST_FEATURES:
            raise InvalidConfigError(
                f"{group} is {_short(entries)}.", f"Expected 1 to {MOST_FEATURES} features."
            )
        for name, entry in entries.items():
            feature = _read_feature(group, name, entry)
            if feature is None or not _is_used(feature, group):
                notes.append(f"{name} is among the {group}, but a diffusion policy does not use it.")
            else:
                listed.append(feature)
    try:
        return PolicyFeatures.of(listed)
    except ValueError as error:
        raise InvalidConfigError(f"output_features: {error}.") from error


def _read_feature(group: str, name: str, entry: Any) -> Feature | None:
    where = f"{group}.{name}"
    if not isinstance(entry, dict) or not {"type", "shape"} <= set(entry):
        raise InvalidConfigError(f"{where} is {_short(entry)}.", "Expected a type and a shape.")
    if entry["type"] not in list(FeatureType):
        return None
    shape = entry["shape"]
    kind = FeatureType(entry["type"])
    whole = isinstance(shape, list) and all(type(size) is int and size >= 1 for size in shape)
    if kind is FeatureType.VISUAL:
        fits = whole and len(shape) == 3 and shape[0] == 3 and max(shape[1:]) <= MOST_PIXELS
        expected = f"Expected [3, height, width] of at most {MOST_PIXELS} pixels."
    else:
        fits = whole and len(shape) == 1 and shape[0] <= MOST_SIZE
        expected = f"Expected one size of at most {MOST_SIZE}."
    if not fits:
        raise InvalidConfigError(f"{where} has shape {_short(shape)}.", expected)
    return Feature(name, kind, tuple(shape))


def _is_used(feature: Feature, group: str) -> bool:
    if group == "output_features":
        return feature.type is FeatureType.ACTION and feature.name == ACTION
    by_name = {FeatureType.STATE: STATE, FeatureType.ENV: ENVIRONMENT_STATE}
    return feature.type is FeatureType.VISUAL or by_name.get(feature.type) == feature.name


def check_values(values: Mapping[str, Any]) -> None:
    """Refuse values that cannot be built here, and sizes that must be mistakes.

    Raises:
        InvalidConfigError: With every value that is wrong.
    """
    problems = [str(fault) for name, value in values.items() for fault in FIELDS[name].faults(value)]
    for name, value in values.items():
        numbers = value if isinstance(value, list) else [value]
        large = [n for n in numbers if isinstance(n, (int, float)) and n > MOST_SIZE]
        if large or len(numbers) > MOST_LEVELS:
            problems.append(f"{name}: {_short(value)} is too large.")
    if problems:
        raise InvalidConfigError(" ".join(problems))


def _note_rest(stated: Mapping[str, Any], values: Mapping[str, Any], notes: list[str]) -> None:
    if values["policy.do_mask_loss_for_padding"]:
        notes.append(
            "do_mask_loss_for_padding: the loss is divided by the valid actions; LeRobot before 0.6 divides "
            "by all of them."
        )
    known = {
        *POLICY_FIELDS,
        *_OPTIMIZER_FIELDS,
        *_NOT_OF_THE_POLICY,
        *("input_features", "output_features", "normalization_mapping", "drop_n_last_frames"),
        *("scheduler_name", "scheduler_warmup_steps"),
    }
    unknown = sorted(set(stated) - known)
    if unknown:
        notes.append(f"unknown here and ignored: {', '.join(unknown)}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
