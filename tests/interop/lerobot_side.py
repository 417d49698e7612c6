"""LeRobot's half of the comparison: runs in its own environment and writes what LeRobot answers.

Nothing of this project is imported here. ``run.py`` calls it; by hand::

    .interop/venv-0.6.1/bin/python lerobot_side.py versions OUT.json
    .interop/venv-0.6.1/bin/python lerobot_side.py predict CHECKPOINT DATASET IN.npz OUT.npz
    .interop/venv-0.6.1/bin/python lerobot_side.py settings CHECKPOINT OUT.json
    .interop/venv-0.6.1/bin/python lerobot_side.py evaluate OUT.npz --policy.path=... (lerobot-eval's)
    .interop/venv-0.6.1/bin/python lerobot_side.py dataset ROOT IN.npz OUT.npz
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

VIDEO_BACKEND = "pyav"
"""torchcodec, LeRobot's default, wants FFmpeg's libraries on the system."""
PACKAGES = ("lerobot", "torch", "torchvision", "diffusers", "av", "numpy", "gym-pusht", "pymunk", "gymnasium")


def versions(out: str) -> None:
    """Write the versions, and the fields of config.json that this LeRobot knows."""
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig

    fields = [field.name for field in dataclasses.fields(DiffusionConfig) if field.init]
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    found["python"] = ".".join(map(str, sys.version_info[:3]))
    Path(out).write_text(json.dumps({"versions": found, "config_fields": ["type", *fields]}))


def predict(checkpoint: str, dataset: str, given: str, out: str) -> None:
    """Load a checkpoint as LeRobot's commands do; write its actions and its loss for a given batch.

    ``given`` has raw values under LeRobot's names (pictures uint8), ``noise`` to start from, ``seed`` of what
    is drawn while denoising and for the loss; ``out`` gets ``actions``, ``loss`` and its noise and timesteps.
    """
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.datasets.lerobot_dataset import LeRobotDatasetMetadata
    from lerobot.policies.factory import make_policy, make_pre_post_processors
    from safetensors.torch import load_file

    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.pretrained_path = Path(checkpoint)
    policy = make_policy(config, ds_meta=LeRobotDatasetMetadata("local/interop", root=dataset))
    before, after = make_pre_post_processors(
        config, checkpoint, preprocessor_overrides={"device_processor": {"device": "cpu"}}
    )
    names = _compare_names(policy.state_dict(), load_file(f"{checkpoint}/model.safetensors"))
    policy.load_state_dict(load_file(f"{checkpoint}/model.safetensors"), strict=True)
    policy.eval()

    arrays = dict(np.load(given))
    seed = int(arrays.pop("seed"))
    noise = torch.from_numpy(arrays.pop("noise"))
    batch = {name: _value(array) for name, array in arrays.items()}
    normalized = before(dict(batch))
    stacked = dict(normalized)
    if config.image_features:
        stacked["observation.images"] = torch.stack([normalized[n] for n in config.image_features], dim=-4)
    torch.manual_seed(seed)
    with torch.no_grad():
        actions = after(policy.diffusion.generate_actions(stacked, noise=noise.clone()))

    # LeRobot draws the loss's noise and timesteps itself, from the global generator and in this order.
    torch.manual_seed(seed)
    eps = torch.randn(noise.shape)
    timesteps = torch.randint(0, config.num_train_timesteps, (len(noise),))
    torch.manual_seed(seed)
    with torch.no_grad():
        loss, _ = policy.forward(normalized)
    np.savez(
        out,
        actions=actions.numpy(),
        loss=loss.numpy(),
        eps=eps.numpy(),
        timesteps=timesteps.numpy(),
        names=json.dumps(names),
        **{f"normalized/{name}": normalized[name].numpy() for name in batch if name != "action_is_pad"},
    )


def settings(checkpoint: str, out: str) -> None:
    """Read a checkpoint's train_config.json and write what was understood."""
    import draccus
    from lerobot import policies  # noqa: F401 - makes the policies known by their names
    from lerobot.configs.train import TrainPipelineConfig

    read = TrainPipelineConfig.from_pretrained(checkpoint)
    Path(out).write_text(json.dumps(draccus.encode(read)))


def evaluate(out: str, *arguments: str) -> None:
    """Run ``lerobot-eval`` and write what the policy saw and did, and what its noise was drawn from.

    Nothing is changed: the wrapped functions are called with their own arguments, and a generator's state is
    read, not moved.
    """
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionModel
    from lerobot.scripts import lerobot_eval

    states: list[torch.Tensor] = []
    counts: list[int] = []
    rollouts: list[dict[str, Any]] = []
    play: Callable[..., dict[str, Any]] = lerobot_eval.rollout
    sample: Callable[..., torch.Tensor] = DiffusionModel.conditional_sample

    def recorded_sample(*args: Any, **kwargs: Any) -> torch.Tensor:
        states.append(torch.get_rng_state())
        return sample(*args, **kwargs)

    def recorded_play(*args: Any, **kwargs: Any) -> dict[str, Any]:
        before = len(states)
        played = play(*args, **(kwargs | {"return_observations": True}))
        counts.append(len(states) - before)
        rollouts.append(played)
        return played

    DiffusionModel.conditional_sample = recorded_sample
    lerobot_eval.rollout = recorded_play
    sys.argv = ["lerobot-eval", *arguments]
    lerobot_eval.main()

    saved: dict[str, Any] = {}
    remaining = iter(states)
    for number, (played, count) in enumerate(zip(rollouts, counts, strict=True)):
        for name in ("action", "reward", "done"):
            saved[f"{number}/{name}"] = played[name].numpy()
        for name, value in played["observation"].items():
            is_picture = value.ndim == 5
            saved[f"{number}/{name}"] = (value * 255).round().byte().numpy() if is_picture else value.numpy()
        saved[f"{number}/states"] = np.stack([next(remaining).numpy() for _ in range(count)])
    np.savez(out, **saved)


def dataset(root: str, given: str, out: str) -> None:
    """Write every row of a dataset, some windows of it with their pictures, and its statistics."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    asked = np.load(given)
    n_obs_steps, horizon = int(asked["n_obs_steps"]), int(asked["horizon"])
    plain = LeRobotDataset("local/interop", root=root, video_backend=VIDEO_BACKEND)
    meta = plain.meta
    observed = [step / meta.fps for step in range(1 - n_obs_steps, 1)]
    acted = [step / meta.fps for step in range(1 - n_obs_steps, 1 - n_obs_steps + horizon)]
    deltas = {name: observed for name in meta.features if name.startswith("observation")} | {"action": acted}
    windows = LeRobotDataset("local/interop", root=root, video_backend=VIDEO_BACKEND, delta_timestamps=deltas)

    saved: dict[str, Any] = {}
    pictures = set(meta.camera_keys)
    rows = plain.hf_dataset.with_format("numpy")
    for name in meta.features:
        if name not in pictures:
            saved[f"row/{name}"] = np.stack([np.asarray(value) for value in rows[name]])
    items = [windows[int(index)] for index in asked["index"]]
    for name in (*deltas, *(f"{name}_is_pad" for name in deltas)):
        value = torch.stack([item[name] for item in items])
        saved[f"window/{name}"] = (value * 255).round().byte().numpy() if name in pictures else value.numpy()
    for name, numbers in meta.stats.items():
        for statistic, value in numbers.items():
            saved[f"stats/{name}/{statistic}"] = np.asarray(value)
    saved["tasks"] = np.array([item["task"] for item in items])
    saved["episode_from"] = np.array(meta.episodes["dataset_from_index"])
    saved["episode_to"] = np.array(meta.episodes["dataset_to_index"])
    saved["fps"] = np.array(meta.fps)
    np.savez(out, **saved)


def _value(array: np.ndarray) -> torch.Tensor:
    """A batch's value as LeRobot's dataset gives it: pictures are floats in [0, 1]."""
    value = torch.from_numpy(array)
    return value.float() / 255 if value.dtype == torch.uint8 else value


def _compare_names(model: dict[str, torch.Tensor], file: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {
        "tensors": len(file),
        "missing": sorted(set(model) - set(file)),
        "unexpected": sorted(set(file) - set(model)),
        "shapes": sorted(name for name in set(model) & set(file) if model[name].shape != file[name].shape),
        "dtypes": sorted({str(value.dtype) for value in file.values()}),
    }


COMMANDS: dict[str, Callable[..., None]] = {
    "versions": versions,
    "predict": predict,
    "settings": settings,
    "evaluate": evaluate,
    "dataset": dataset,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
