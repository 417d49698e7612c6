"""Small policies and batches for tests."""

from __future__ import annotations

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.features import Feature, FeatureType, PolicyFeatures

STATE_DIM, ACTION_DIM = 3, 2

SMALL: dict[str, Any] = {
    "horizon": 8,
    "n_action_steps": 4,
    "down_dims": (16, 32),
    "n_groups": 4,
    "diffusion_step_embed_dim": 16,
    "spatial_softmax_num_keypoints": 4,
    "num_train_timesteps": 20,
}


def features(*, cameras: int = 0, image: tuple[int, int] = (40, 48), environment: int = 0) -> PolicyFeatures:
    listed = [Feature(f"observation.images.c{n}", FeatureType.VISUAL, (3, *image)) for n in range(cameras)]
    listed.append(Feature("observation.state", FeatureType.STATE, (STATE_DIM,)))
    if environment:
        listed.append(Feature("observation.environment_state", FeatureType.ENV, (environment,)))
    return PolicyFeatures.of([*listed, Feature("action", FeatureType.ACTION, (ACTION_DIM,))])


def statistics(listed: PolicyFeatures) -> dict[str, dict[str, np.ndarray]]:
    """Vectors of roughly [-100, 100], images of [0, 1]."""
    found = {}
    for feature in listed.all():
        image = feature.type is FeatureType.VISUAL
        shape = (3, 1, 1) if image else feature.shape
        names = ("min", "max", "mean", "std", "q01", "q99")
        numbers = (0.0, 1.0, 0.5, 0.25, 0.1, 0.9) if image else (-100.0, 100.0, 5.0, 40.0, -90.0, 90.0)
        found[feature.name] = {name: np.full(shape, x) for name, x in zip(names, numbers, strict=True)}
    return found


def small_policy(
    *, cameras: int = 0, image: tuple[int, int] = (40, 48), environment: int = 0, seed: int = 0, **config: Any
) -> DiffusionPolicy:
    """A policy with random weights: always a new one, though equal ones are drawn only once."""
    listed = features(cameras=cameras, image=image, environment=environment)
    policy, random_state = _drawn(pickle.dumps((seed, {**SMALL, **config}, listed)))
    torch.set_rng_state(random_state)
    return copy.deepcopy(policy)


@functools.lru_cache(maxsize=6)
def _drawn(arguments: bytes) -> tuple[DiffusionPolicy, Tensor]:
    """A policy, and the state of torch's generator after its weights were drawn."""
    seed, config, listed = pickle.loads(arguments)
    torch.manual_seed(seed)
    return build_policy(PolicyConfig(**config), listed, statistics(listed)), torch.get_rng_state()


def small_batch(policy: DiffusionPolicy, size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch: dict[str, Tensor] = {}
    for feature in policy.features.inputs:
        shape = (size, policy.n_obs_steps, *feature.shape)
        if feature.type is FeatureType.VISUAL:
            batch[feature.name] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        else:
            batch[feature.name] = 40 * torch.randn(shape, generator=generator)
    batch["action"] = 40 * torch.randn((size, policy.horizon, policy.action_dim), generator=generator)
    batch["action_is_pad"] = torch.zeros((size, policy.horizon), dtype=torch.bool)
    return batch


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def small_settings(dataset: Path) -> dict[str, Any]:
    """A configuration that trains on a dataset of states for a few seconds on one core."""
    return {
        "dataset.root": str(dataset),
        "dataset.holdout_fraction": 0.25,
        "policy.horizon": 8,
        "policy.n_action_steps": 4,
        "policy.down_dims": [16, 32],
        "policy.n_groups": 4,
        "policy.diffusion_step_embed_dim": 16,
        "policy.num_train_timesteps": 20,
        "policy.num_inference_steps": 4,
        "policy.sampler": "DDIM",
        "policy.prediction_type": "sample",
        "optimizer.lr": 1e-3,
        "lr_scheduler.warmup_steps": 2,
        "train.steps": 12,
        "train.batch_size": 16,
        "train.log_every": 3,
        "train.eval_every": 6,
        "eval.windows": 16,
        "eval.num_inference_steps": 4,
        "eval.denoising_picture": False,
    }
