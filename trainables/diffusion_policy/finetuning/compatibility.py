"""Whether a checkpoint's weights fit a configuration and a dataset, by names, sizes and shapes.

Standard library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.shapes import layer_of, listed, reinitialised_layers, tensor_shapes
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig
from trainables.features import ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures
from trainables.interface import Fault

__all__ = [
    "changed_fields",
    "differ",
    "feature_faults",
    "feature_sizes",
    "field_fault",
    "frozen_faults",
    "image_remarks",
    "layers_to_reinitialise",
    "match_camera_order",
    "reinit_remarks",
    "rename_for_cameras",
    "shown",
    "start_policy",
]

ENCODER_FIELDS = (
    "vision_backbone",
    "use_group_norm",
    "spatial_softmax_num_keypoints",
    "use_separate_rgb_encoder_per_camera",
)
UNET_FIELDS = (
    "n_obs_steps",
    "down_dims",
    "kernel_size",
    "n_groups",
    "diffusion_step_embed_dim",
    "use_film_scale_modulation",
)
OWN_FIELDS = {
    "policy.path",
    "policy.preset",
    "policy.stats",
    "policy.reinit_mismatched",
    # The weights are the checkpoint's; fetching others first would be useless.
    "policy.pretrained_backbone_weights",
}
"""Fields of the policy that describe the start, and are not taken from the checkpoint."""
SHOWN_LAYERS = 6

Value = TypeVar("Value")


def feature_faults(config: DiffusionConfig, start: PretrainedConfig, found: PolicyFeatures) -> list[Fault]:
    """How the observations and actions of a dataset differ from those of the checkpoint's weights.

    Args:
        config: The completed configuration.
        start: The checkpoint.
        found: The dataset's features, limited to the observations that are used.
    """
    faults = _statistics_faults(config, start, found)
    if config.policy.reinit_mismatched:
        return faults + frozen_faults(config, start, found)
    reinitialised = len(layers_to_reinitialise(config.policy, start, found))
    remedy = f"Or set policy.reinit_mismatched: true, which reinitialises {_count(reinitialised, 'layer')}."
    return [
        *faults,
        *_camera_faults(start.features.cameras, found.cameras, remedy),
        *_vector_faults(start.features, found, remedy),
    ]


def layers_to_reinitialise(policy: PolicyConfig, start: PretrainedConfig, found: PolicyFeatures) -> list[str]:
    """The layers of a new policy that cannot take their weights from the checkpoint, in order."""
    before = start_policy(start)
    known = rename_for_cameras(_shapes(before, start.features), before, start.features, found)
    other = before.vision_backbone != policy.vision_backbone
    return reinitialised_layers(known, _shapes(policy, found), other_backbone=other)


def rename_for_cameras(
    tensors: Mapping[str, Value], before: PolicyConfig, known: PolicyFeatures, wanted: PolicyFeatures
) -> dict[str, Value]:
    """A checkpoint's tensors under the names that a policy with other cameras has for them.

    With one encoder per camera, the encoders are numbered in the order of the cameras: a camera keeps its own
    encoder at any position, and the encoder of a camera that is gone is left out.

    Args:
        tensors: By their name in the checkpoint.
        before: The checkpoint's configuration.
        known: The checkpoint's features.
        wanted: The new policy's features.
    """
    if not before.use_separate_rgb_encoder_per_camera:
        return dict(tensors)
    places = {camera.name: place for place, camera in enumerate(wanted.cameras)}
    moved: dict[str, Value] = {}
    numbers = {f"diffusion.rgb_encoder.{n}.": camera.name for n, camera in enumerate(known.cameras)}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in numbers if name.startswith(prefix)), None)
        if prefix is None:
            moved[name] = value
        elif numbers[prefix] in places:
            place = places[numbers[prefix]]
            moved[f"diffusion.rgb_encoder.{place}.{name.removeprefix(prefix)}"] = value
    return moved


def match_camera_order(found: PolicyFeatures, known: PolicyFeatures) -> PolicyFeatures:
    """A dataset's features with the cameras in the order in which a checkpoint's policy takes them.

    New cameras follow. The order decides which numbers of the condition belong to a camera, and which encoder
    if each camera has one.
    """
    order = {camera.name: place for place, camera in enumerate(known.cameras)}
    cameras = iter(sorted(found.cameras, key=lambda camera: order.get(camera.name, len(order))))
    inputs = (next(cameras) if item.type is FeatureType.VISUAL else item for item in found.inputs)
    return PolicyFeatures(tuple(inputs), found.action)


def image_remarks(policy: PolicyConfig, start: PretrainedConfig, found: PolicyFeatures) -> list[str]:
    """Cameras whose images have another size than those on which the checkpoint's encoder was trained."""
    known = {camera.name: _image_size(start_policy(start), camera) for camera in start.features.cameras}
    sizes = {camera.name: _image_size(policy, camera) for camera in found.cameras}
    return [
        f"{name}: the checkpoint was trained on images of {_times(known[name])}, but gets {_times(size)}. "
        f"Set policy.resize_shape: {list(known[name])} to keep the scale of its images."
        for name, size in sizes.items()
        if name in known and known[name] != size
    ]


def reinit_remarks(policy: PolicyConfig, start: PretrainedConfig, found: PolicyFeatures) -> list[str]:
    """Which layers are reinitialised, and why; empty if all of them fit."""
    causes = [f"policy.{name}" for name in changed_fields(policy, start)]
    if _camera_faults(start.features.cameras, found.cameras) or _vector_faults(start.features, found):
        causes.append("the dataset's features")
    if not causes:
        return []
    reinitialised = layers_to_reinitialise(policy, start, found)
    total = len({layer_of(name) for name in _shapes(policy, found)})
    words = f"of {total} layers {_count(len(reinitialised), 'is', 'are')} reinitialised ({', '.join(causes)})"
    return [f"policy.reinit_mismatched: {words}{': ' + _listed(reinitialised) if reinitialised else ''}."]


def start_policy(start: PretrainedConfig) -> PolicyConfig:
    """The checkpoint's own configuration of its policy."""
    names = {item.name for item in dataclasses.fields(PolicyConfig)}
    values: dict[str, Any] = {
        name.removeprefix("policy."): tuple(value) if isinstance(value, list) else value
        for name, value in start.values.items()
        if name.startswith("policy.") and name not in OWN_FIELDS
    }
    return PolicyConfig(**{name: value for name, value in values.items() if name in names})


def changed_fields(policy: PolicyConfig, start: PretrainedConfig) -> list[str]:
    """Fields on which layers depend, and which differ from the checkpoint's."""
    before = start_policy(start)
    names = (*ENCODER_FIELDS, *UNET_FIELDS) if start.features.cameras else UNET_FIELDS
    return [name for name in names if differ(getattr(policy, name), getattr(before, name))]


def field_fault(name: str, policy: PolicyConfig, start: PretrainedConfig) -> Fault:
    """The fault of a field that differs from the checkpoint's."""
    had, wanted = getattr(start_policy(start), name), getattr(policy, name)
    alone = dataclasses.replace(start_policy(start), **{name: wanted})
    reinitialised = len(layers_to_reinitialise(alone, start, start.features))
    # The groups of GroupNorm have no weights, but they change the function that is computed.
    consequence = (
        f"which reinitialises {_count(reinitialised, 'layer')}"
        if reinitialised
        else "which keeps the weights as they are"
    )
    return Fault(
        f"policy.{name}",
        f"{shown(wanted)} does not fit the checkpoint of policy.path, which has {shown(had)}.",
        f"Leave policy.{name} out to keep that, or set policy.reinit_mismatched: true, {consequence}.",
    )


def frozen_faults(config: DiffusionConfig, start: PretrainedConfig, found: PolicyFeatures) -> list[Fault]:
    """Layers of the vision encoder that would be reinitialised and then never trained."""
    if not config.freezes_encoder:
        return []
    reinitialised = layers_to_reinitialise(config.policy, start, found)
    blind = [layer for layer in reinitialised if layer.startswith("diffusion.rgb_encoder.")]
    if not blind:
        return []
    problem = f"0 would freeze {_count(len(blind), 'reinitialised layer')} of the encoder: {_listed(blind)}."
    remedy = "Use a number above 0, or the checkpoint's own settings of the encoder."
    return [Fault("optimizer.vision_encoder_lr_multiplier", problem, remedy)]


def _camera_faults(known: tuple[Feature, ...], found: tuple[Feature, ...], remedy: str = "") -> list[Fault]:
    missing = [camera.name for camera in known if camera.name not in {item.name for item in found}]
    added = [camera.name for camera in found if camera.name not in {item.name for item in known}]
    if not missing and not added:
        return []
    problem = f"the checkpoint uses {_names(known)}, but the dataset has {_names(found)}."
    if len(missing) == len(added):
        renamed = ", ".join(f"{new}: {old}" for new, old in zip(added, missing, strict=True))
        first = f"If they are the same under other names, set dataset.features: {{{renamed}}}."
    elif added and not missing:
        first = f"Leave out {', '.join(added)}: dataset.observations chooses what is used."
    else:
        first = f"The dataset needs {', '.join(missing)}."
    return [Fault("dataset.observations", problem, f"{first} {remedy}")]


def _vector_faults(known: PolicyFeatures, found: PolicyFeatures, remedy: str = "") -> list[Fault]:
    faults = []
    for name in (STATE, ENVIRONMENT_STATE, known.action.name):
        had, has = _dim(known, name), _dim(found, name)
        if had == has:
            continue
        if has is None:
            problem, first = f"the checkpoint needs it ({had} numbers), but the dataset lacks it.", ""
        elif had is None:
            problem = f"the checkpoint does not use it, but the dataset has it ({has} numbers)."
            first = "Leave it out: dataset.observations chooses what is used."
        else:
            problem = f"the checkpoint has {had} numbers, but the dataset has {has}."
            first = "Use a dataset of the same robot."
        faults.append(Fault(name, problem, f"{first} {remedy}".strip()))
    return faults


def _statistics_faults(
    config: DiffusionConfig, start: PretrainedConfig, found: PolicyFeatures
) -> list[Fault]:
    if config.policy.stats != "checkpoint":
        return []
    known = {feature.name: _statistics_shape(feature) for feature in start.features.all()}
    lacking = [item.name for item in found.all() if known.get(item.name) != _statistics_shape(item)]
    if not lacking:
        return []
    problem = f"the checkpoint has no statistics that fit {', '.join(lacking)}."
    return [Fault("policy.stats", problem, "Set policy.stats: dataset.")]


def _shapes(policy: PolicyConfig, features: PolicyFeatures) -> dict[str, tuple[int, ...]]:
    return tensor_shapes(policy, **feature_sizes(features))


def feature_sizes(features: PolicyFeatures) -> dict[str, int]:
    """Sizes of what a policy sees and does, as `tensor_shapes` takes them."""
    return {
        "action_dim": features.action_dim,
        "vector_dim": features.state_dim + features.environment_state_dim,
        "cameras": len(features.cameras),
    }


def _image_size(policy: PolicyConfig, camera: Feature) -> tuple[int, ...]:
    return policy.resize_shape or camera.shape[1:]


def _times(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))


def _statistics_shape(feature: Feature) -> tuple[int, ...]:
    return feature.shape[:1] if feature.type is FeatureType.VISUAL else feature.shape


def _dim(features: PolicyFeatures, name: str) -> int | None:
    return next((feature.shape[0] for feature in features.all() if feature.name == name), None)


def differ(one: Any, other: Any) -> bool:
    """Whether two values differ; a list and a tuple of the same elements do not."""
    plain = [list(value) if isinstance(value, (list, tuple)) else value for value in (one, other)]
    return bool(plain[0] != plain[1])


def _names(features: Iterable[Feature]) -> str:
    return ", ".join(feature.name for feature in features) or "no camera"


def _listed(layers: list[str]) -> str:
    return listed([layer.removeprefix("diffusion.") for layer in layers], SHOWN_LAYERS)


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number} {one if number == 1 else several or one + 's'}"


def shown(value: Any) -> str:
    """A value as it is written in a space file."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(list(value)) if isinstance(value, (list, tuple)) else str(value)
