"""Checkpoints from strangers: a policy, or an error of ours. No pickle is loaded, no size is believed."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mutations import as_json, damaged_bytes, damaged_trees, fuzz

from trainables.diffusion_policy import lerobot
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import build_policy
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import TrainableError

pytestmark = pytest.mark.slow

FEATURES = PolicyFeatures.of(
    [
        Feature("observation.environment_state", FeatureType.ENV, (4,)),
        Feature("observation.state", FeatureType.STATE, (2,)),
        Feature("action", FeatureType.ACTION, (2,)),
    ]
)
TINY = PolicyConfig(
    horizon=8,
    n_action_steps=4,
    down_dims=(16, 32),
    n_groups=4,
    diffusion_step_embed_dim=16,
    num_train_timesteps=10,
    normalization_environment_state="IDENTITY",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small policy as LeRobot would have written it."""
    torch.manual_seed(0)
    numbers = {"min": -1.0, "max": 1.0, "mean": 0.0, "std": 0.5, "q01": -0.9, "q99": 0.9}
    statistics = {
        feature.name: {name: np.full(feature.shape, value) for name, value in numbers.items()}
        for feature in FEATURES.all()
    }
    folder = tmp_path_factory.mktemp("whole") / "policy"
    lerobot.save(build_policy(TINY, FEATURES, statistics), folder)
    return folder


def try_policy(folder: Path) -> None:
    """Load a policy as `policy.path` would, and ask it for actions."""
    try:
        policy = lerobot.load(folder)
        shapes = {feature.name: feature.shape for feature in policy.features.inputs}
        observation = {name: torch.zeros(1, policy.n_obs_steps, *shape) for name, shape in shapes.items()}
        if policy.config.inference_steps <= TINY.num_train_timesteps:
            policy.predict_action(observation, generator=torch.Generator().manual_seed(0))
    except TrainableError as error:
        assert str(error).strip()  # noqa: PT017 - whether it is refused depends on the damage


@fuzz(1.0, 40)
@given(data=st.data())
def test_descriptions_with_damaged_values(whole, tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "policy"
    shutil.copytree(whole, folder)
    file = data.draw(st.sampled_from(sorted(folder.glob("*.json"))))
    file.write_bytes(as_json(data.draw(damaged_trees(json.loads(file.read_text())))))
    try_policy(folder)
    shutil.rmtree(folder.parent)


@fuzz(1.0, 40)
@given(data=st.data())
def test_files_with_damaged_bytes(whole, tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "policy"
    shutil.copytree(whole, folder)
    file = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    try_policy(folder)
    shutil.rmtree(folder.parent)


@fuzz(1.0, 30)
@given(data=st.data())
def test_tensors_that_claim_to_be_something_else(whole, tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("fuzz") / "policy"
    shutil.copytree(whole, folder)
    file = data.draw(st.sampled_from(sorted(folder.glob("*.safetensors"))))
    blob = file.read_bytes()
    size = struct.unpack("<Q", blob[:8])[0]
    header: dict[str, Any] = json.loads(blob[8 : 8 + size])
    damaged = as_json(data.draw(damaged_trees(header)))
    file.write_bytes(struct.pack("<Q", len(damaged)) + damaged + blob[8 + size :])
    try_policy(folder)
    shutil.rmtree(folder.parent)


class Evil:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_nothing_is_unpickled(whole, tmp_path) -> None:
    mark = tmp_path / "ran"
    for name in ("model.safetensors", "model.ckpt", "policy_preprocessor.json"):
        folder = tmp_path / name.replace(".", "-")
        shutil.copytree(whole, folder)
        target = folder / name
        target.write_bytes(pickle.dumps(Evil(mark)))
        torch.save({"state_dicts": Evil(mark)}, folder / "also.ckpt")
        for path in (folder, target, folder / "also.ckpt"):
            try:
                lerobot.load(path)
            except TrainableError as error:
                assert str(error).strip()  # noqa: PT017 - a folder whose weights are whole does load
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the trap itself must work"
