"""Write a policy in LeRobot's format, and verify it by reading it back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables.deployment.bundle import CARD
from trainables.diffusion_policy.lerobot.train_settings import TRAIN_SETTINGS_TARGET, train_settings
from trainables.diffusion_policy.lerobot.translate import ExportError, express
from trainables.diffusion_policy.network.normalize import EPSILON, NEEDED, constant_dimensions
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.lerobot_config import TARGETS
from trainables.diffusion_policy.pretrained.lerobot_processors import (
    NORMALIZER,
    POSTPROCESSOR,
    PREPROCESSOR,
    RENAMER,
    UNNORMALIZER,
)
from trainables.diffusion_policy.pretrained.read import WEIGHTS, load
from trainables.features import FeatureType
from trainables.files import share_like, sync_to_disk
from trainables.interface import TrainableError

__all__ = ["FILES", "save"]

_INPUT_STATE = "policy_preprocessor_step_3_normalizer_processor.safetensors"
_OUTPUT_STATE = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"
TRAIN_SETTINGS = "train_config.json"
FILES = {
    *("config.json", WEIGHTS, TRAIN_SETTINGS, CARD),
    *(PREPROCESSOR, _INPUT_STATE, POSTPROCESSOR, _OUTPUT_STATE),
}
"""The files of an export."""

FAR = 1e12
"""A constant dimension is written with a range of its value (or 1) times this: then any value gives it."""
COMPARED_SAMPLES = 2
COMPARED_STEPS = 10
"""Denoising steps of the comparison; with DDIM, which draws no noise."""
TOLERANCE = 1e-4
"""Largest difference of an action that may be rounding, as a share of the actions' spread."""


def save(
    policy: DiffusionPolicy,
    path: str | Path,
    target: str = TARGETS[0],
    *,
    settings: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> list[str]:
    """Write a policy in the format of a version of LeRobot, and verify it.

    The export is written beside ``path``, read back with :func:`load` and compared for a fixed observation
    and fixed noise; then it is renamed. After a failure nothing remains.

    Args:
        policy: The policy; its weights are written as they are, in float32.
        path: The folder to create, for ``lerobot-eval --policy.path``. May exist if it is empty.
        target: The version of LeRobot to write for: ``lerobot==0.4.4`` or ``lerobot==0.6.1``.
        settings: Settings of the training, by dotted name. ``train_config.json`` is written too if they
            are complete (``train.steps``) and the target's form of it is known (0.4.4).
        replace: Replace an earlier export in ``path``.

    Returns:
        Notes on replaced settings and on the result of the comparison, in a sentence each.

    Raises:
        ExportError: If LeRobot cannot express the policy, with every reason; if ``path`` contains
            something else; or if the export differs from the policy.
    """
    folder = Path(path).expanduser()
    _check_place(folder, replace)
    expression = express(policy, target, settings or {})
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        constant = _write(beside, policy, expression.config)
        if settings and "train.steps" in settings and target == TRAIN_SETTINGS_TARGET:
            _write_json(beside / TRAIN_SETTINGS, train_settings(expression.config, settings), indent=4)
        compared = _compare(policy, beside)
        _put_in_place(beside, folder)
    except OSError as error:
        raise ExportError(f"{folder} cannot be written: {error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return [*expression.notes, *constant, compared]


def _check_place(folder: Path, replace: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExportError(f"{folder} is a file. Name a new folder.")
    there = {entry.name for entry in folder.iterdir()}
    if there and not there <= FILES:
        other = ", ".join(sorted(there - FILES)[:3])
        raise ExportError(f"{folder} contains something else ({other}). Name a new folder.")
    if there and not replace:
        raise ExportError(
            f"{folder} already contains a checkpoint. Name a new folder, or replace it with --force."
        )


def _put_in_place(beside: Path, folder: Path) -> None:
    for file in beside.iterdir():
        sync_to_disk(file)
    sync_to_disk(beside)
    earlier = folder.with_name(f".{folder.name}.{os.getpid()}.earlier")
    if folder.exists():
        folder.replace(earlier)
    try:
        beside.replace(folder)
    except OSError:
        if earlier.exists():
            earlier.replace(folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)
    sync_to_disk(folder.parent)


def _write(folder: Path, policy: DiffusionPolicy, config: Mapping[str, Any]) -> list[str]:
    """Write all files except the settings of the training; returns notes on constant dimensions."""
    _write_json(folder / "config.json", config, indent=4)
    weights = {name: _ready(value) for name, value in policy.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    constant = constant_dimensions(policy.features, policy.statistics(), policy.normalizer.modes)
    inputs, outputs = _statistics(policy, constant)
    save_file(inputs, folder / _INPUT_STATE)
    save_file(outputs, folder / _OUTPUT_STATE)
    share_like(folder / "config.json", *folder.glob("*.safetensors"))
    _write_json(folder / PREPROCESSOR, _preprocessor(config), indent=2)
    _write_json(folder / POSTPROCESSOR, _postprocessor(config), indent=2)
    return [
        f"{name}: dimensions {dimensions} never vary. LeRobot would divide them by 1e-8, so their statistics "
        "are written such that LeRobot computes the same values as this project."
        for name, dimensions in constant.items()
    ]


def _ready(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return (value.float() if value.is_floating_point() else value).contiguous().clone()


def _statistics(
    policy: DiffusionPolicy, constant: Mapping[str, list[int]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Statistics of the steps before and after the policy.

    LeRobot divides a dimension that never varies by 1e-8. For inputs such a dimension is written with a very
    wide range above its constant, so that any value becomes the constant's. For actions it is written with no
    range at all, which gives the constant for any prediction.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for feature in policy.features.all():
        entry = {
            name: np.array(value, np.float32)
            for name, value in policy.statistics().get(feature.name, {}).items()
        }
        narrow = {name: value.copy() for name, value in entry.items()}
        mode = policy.normalizer.modes[feature.type]
        for place in constant.get(feature.name, []):
            first, second = NEEDED[mode]
            value = entry[first].reshape(-1)[place]
            far = np.float32(FAR) * max(np.abs(value), np.float32(1))
            entry[second].reshape(-1)[place] = far if mode == "MEAN_STD" else value + far
            narrow[second].reshape(-1)[place] = 0 if mode == "MEAN_STD" else value
        after = narrow if feature.type is FeatureType.ACTION else entry
        inputs |= {f"{feature.name}.{name}": torch.from_numpy(value) for name, value in entry.items()}
        outputs |= {
            f"{feature.name}.{name}": torch.from_numpy(value).clone() for name, value in after.items()
        }
    return inputs, outputs


def _preprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    features = config["input_features"] | config["output_features"]
    return {
        "name": "policy_preprocessor",
        "steps": [
            {"registry_name": RENAMER, "config": {"rename_map": {}}},
            {"registry_name": "to_batch_processor", "config": {}},
            {
                "registry_name": "device_processor",
                "config": {"device": config["device"], "float_dtype": None},
            },
            _normalizing_step(NORMALIZER, features, config, _INPUT_STATE),
        ],
    }


def _postprocessor(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": "policy_postprocessor",
        "steps": [
            _normalizing_step(UNNORMALIZER, config["output_features"], config, _OUTPUT_STATE),
            {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
        ],
    }


def _normalizing_step(
    registered: str, features: Mapping[str, Any], config: Mapping[str, Any], state: str
) -> dict[str, Any]:
    settings = {"eps": EPSILON, "features": features, "norm_map": config["normalization_mapping"]}
    return {"registry_name": registered, "config": settings, "state_file": state}


def _write_json(file: Path, content: Mapping[str, Any], indent: int) -> None:
    file.write_text(json.dumps(content, indent=indent, allow_nan=False), encoding="utf-8")


def _compare(policy: DiffusionPolicy, folder: Path) -> str:
    """Read an export back and compare its actions with the policy's.

    Raises:
        ExportError: If it cannot be read, or its actions differ.
    """
    try:
        again = load(folder, device=policy.device)
    except TrainableError as error:
        raise ExportError(f"the export cannot be read back: {error}") from error
    observation = _observation(policy)
    generator = torch.Generator().manual_seed(0)
    shape = (COMPARED_SAMPLES, policy.horizon, policy.action_dim)
    arguments: dict[str, Any] = {
        "noise": torch.randn(shape, generator=generator),
        "sampler": "DDIM",
        "num_inference_steps": min(COMPARED_STEPS, policy.config.num_train_timesteps),
    }
    expected = policy.predict_action(observation, **arguments).cpu()
    found = again.predict_action(observation, **arguments).cpu()
    difference = float((expected - found).abs().max())
    spread = float((expected.amax(dim=(0, 1)) - expected.amin(dim=(0, 1))).max())
    allowed = TOLERANCE * max(spread, float(expected.abs().max()), 1e-3)
    if not difference <= allowed:
        raise ExportError(
            f"the export, read back, gives other actions: they differ by up to {difference:.3g}, but "
            f"rounding explains only {allowed:.3g}."
        )
    return (
        f"read back: for the same observations and noise ({shape[0]} samples, DDIM of "
        f"{arguments['num_inference_steps']} steps) the actions differ by at most {difference:.3g}."
    )


def _observation(policy: DiffusionPolicy) -> dict[str, Tensor]:
    """Observations (B, To, ...) in the range of the data; constant dimensions vary slightly."""
    generator = torch.Generator().manual_seed(0)
    observation = {}
    for feature in policy.features.inputs:
        shape = (COMPARED_SAMPLES, policy.n_obs_steps, *feature.shape)
        if feature.type is FeatureType.VISUAL:
            observation[feature.name] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        else:
            spread = torch.rand(shape, generator=generator) * 2 - 1
            observation[feature.name] = policy.normalizer.unnormalize(
                feature.name, spread.to(policy.device)
            ).cpu()
            observation[feature.name] += 1e-3 * spread
    return observation
