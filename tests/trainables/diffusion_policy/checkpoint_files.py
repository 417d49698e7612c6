"""Checkpoints for tests, in the formats that users have."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from trainables.diffusion_policy import lerobot
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.finetuning.compatibility import feature_sizes, start_policy
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.network.shapes import tensor_shapes
from trainables.diffusion_policy.pretrained.read_config import read_config
from trainables.diffusion_policy.training.checkpoint import Checkpoints, Snapshot

WEIGHTS = "model.safetensors"
INPUT_STATE = "policy_preprocessor_step_3_normalizer_processor.safetensors"
OUTPUT_STATE = "policy_postprocessor_step_0_unnormalizer_processor.safetensors"


def lerobot_folder(policy: DiffusionPolicy, folder: Path) -> Path:
    """A folder as LeRobot 0.4.4 writes it."""
    lerobot.save(policy, folder)
    return folder


def change_json(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def change_tensors(file: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    tensors = change(load_file(file))
    file.unlink()  # it may be a link to a file of other tests
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def write_header(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """A file of weights of which only the header is written: the numbers are a hole in the file."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)


def header_of(folder: Path) -> None:
    """Write the header of the weights that a folder's configuration describes."""
    config = read_config(folder)
    shapes = tensor_shapes(start_policy(config), **feature_sizes(config.features))
    if config.format == "lerobot_buffers":
        shapes |= {f"unnormalize_outputs.buffer_action.{name}": (2,) for name in ("min", "max")}
    write_header(folder / WEIGHTS, shapes)


def to_buffers(folder: Path) -> Path:
    """Turn a folder of LeRobot 0.4.4 into one from before 0.4: no processors, but buffers."""
    statistics = load_file(folder / INPUT_STATE)
    outputs = load_file(folder / OUTPUT_STATE)
    config = json.loads((folder / "config.json").read_text())
    used = {"MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max")}
    buffers = {}
    for name, entry in (config["input_features"] | config["output_features"]).items():
        for statistic in used.get(config["normalization_mapping"].get(entry["type"]), ()):
            buffer = f"buffer_{name.replace('.', '_')}.{statistic}"
            if entry["type"] == "ACTION":
                buffers[f"normalize_targets.{buffer}"] = statistics[f"{name}.{statistic}"]
                buffers[f"unnormalize_outputs.{buffer}"] = outputs[f"{name}.{statistic}"]
            else:
                buffers[f"normalize_inputs.{buffer}"] = statistics[f"{name}.{statistic}"]
    change_tensors(folder / WEIGHTS, lambda weights: weights | buffers)
    for file in folder.glob("policy_*"):
        file.unlink()
    return folder


def own_checkpoint(policy: DiffusionPolicy, folder: Path, *, ema: bool = True, **config: Any) -> Path:
    """A checkpoint of this project, whose averaged weights are half of those as trained."""
    weights = policy.state_dict()
    flat = {"dataset.root": "somewhere", "train.steps": 40, "lr_scheduler.warmup_steps": 2, **config}
    stated = {f"policy.{name}": value for name, value in vars(policy.config).items()}
    averaged = {name: value / 2 for name, value in weights.items() if not name.endswith("pos_grid")}
    snapshot = Snapshot(
        step=40,
        config=DiffusionConfig.from_flat(flat | stated),
        features=policy.features,
        statistics=policy.statistics(),
        model=weights,
        ema=averaged | {"num_updates": torch.tensor(40)} if ema else None,
        optimizer={},
        progress={},
    )
    return Checkpoints(folder / "checkpoints").save(snapshot, best=True)


def original_payload(policy: DiffusionPolicy) -> dict[str, Any]:
    """The original code's file of a policy on states; its averaged weights are the policy's."""
    config = policy.config
    model = {
        "_target_": "diffusion_policy.model.diffusion.conditional_unet1d.ConditionalUnet1D",
        "input_dim": policy.action_dim,
        "local_cond_dim": None,
        "global_cond_dim": policy.features.state_dim * config.n_obs_steps,
        "diffusion_step_embed_dim": config.diffusion_step_embed_dim,
        "down_dims": list(config.down_dims),
        "kernel_size": config.kernel_size,
        "n_groups": config.n_groups,
        "cond_predict_scale": config.use_film_scale_modulation,
    }
    scheduler = {
        "_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler",
        "num_train_timesteps": config.num_train_timesteps,
        "beta_start": config.beta_start,
        "beta_end": config.beta_end,
        "beta_schedule": config.beta_schedule,
        "variance_type": "fixed_small",
        "clip_sample": config.clip_sample,
        "prediction_type": config.prediction_type,
    }
    stated = {
        "_target_": "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy",
        "model": model,
        "noise_scheduler": scheduler,
        "horizon": config.horizon,
        "obs_dim": policy.features.state_dim,
        "action_dim": policy.action_dim,
        "n_action_steps": config.n_action_steps,
        "n_obs_steps": config.n_obs_steps,
        "num_inference_steps": config.num_train_timesteps,
        "obs_as_local_cond": False,
        "obs_as_global_cond": True,
        "pred_action_steps_only": False,
        "oa_step_convention": True,
    }
    weights = {original_name(name): value for name, value in policy.state_dict().items()}
    for name, feature in (("obs", "observation.state"), ("action", "action")):
        low, high = (torch.tensor(policy.statistics()[feature][key]).float() for key in ("min", "max"))
        weights[f"normalizer.params_dict.{name}.scale"] = 2 / (high - low)
        weights[f"normalizer.params_dict.{name}.offset"] = -1 - low * 2 / (high - low)
    weights |= {"mask_generator._dummy_variable": torch.zeros(0), "_dummy_variable": torch.zeros(0)}
    untrained = {name: torch.zeros_like(value) for name, value in weights.items()} | {
        name: value for name, value in weights.items() if name.startswith("normalizer.")
    }
    return {
        "cfg": {"policy": stated, "horizon": config.horizon},
        "state_dicts": {"model": untrained, "ema_model": weights, "optimizer": {"state": {}}},
        "pickles": {"global_step": b"\x80\x04K\x03."},
    }


def original_name(name: str) -> str:
    """The original code's name of a parameter of the U-Net."""
    parts = name.replace("diffusion.unet.", "model.").split(".")
    parts = [{"conv1": "blocks.0", "conv2": "blocks.1"}.get(part, part) for part in parts]
    if parts[1] in ("down_modules", "up_modules") and parts[3] == "2":
        parts.insert(4, "conv")
    return ".".join(parts)


def copy_of(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def weights_of(folder: Path) -> Mapping[str, Tensor]:
    return load_file(folder / WEIGHTS)
