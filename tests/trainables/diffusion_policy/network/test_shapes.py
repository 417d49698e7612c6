"""Names and shapes of a policy's weights, computed without torch."""

from __future__ import annotations

from typing import Any

import pytest
from small_policy import SMALL, features

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.shapes import (
    DERIVED_BUFFER,
    encoder_count,
    parameter_count,
    reinitialised_layers,
    tensor_shapes,
)
from trainables.diffusion_policy.pretrained.weights import empty_networks, policy_shapes

NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "no camera": (0, {}),
    "one camera": (1, {}),
    "two cameras, one encoder": (2, {}),
    "two cameras, two encoders": (2, {"use_separate_rgb_encoder_per_camera": True}),
    "BatchNorm": (1, {"use_group_norm": False}),
    "resnet34": (1, {"vision_backbone": "resnet34"}),
    "resnet50 with BatchNorm": (1, {"vision_backbone": "resnet50", "use_group_norm": False}),
    "three levels, other kernel": (0, {"down_dims": (16, 32, 64), "kernel_size": 3, "n_obs_steps": 3}),
    "FiLM without scale": (0, {"use_film_scale_modulation": False}),
    "levels of one width": (0, {"down_dims": (16, 16)}),
    "one level": (0, {"down_dims": (16,)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_are_those_of_the_network(name: str) -> None:
    cameras, changes = NETWORKS[name]
    config, listed = PolicyConfig(**{**SMALL, **changes}), features(cameras=cameras, environment=5)
    built = policy_shapes(empty_networks(config, listed))
    learnt = {name: shape for name, shape in built.items() if not name.endswith(DERIVED_BUFFER)}

    assert tensor_shapes(config, action_dim=2, vector_dim=3 + 5, cameras=cameras) == learnt
    assert len(built) - len(learnt) == len({name for name in built if "pool.nets.weight" in name})


def test_encoders_are_counted_by_the_camera_or_once() -> None:
    one, shared = encoder_count(PolicyConfig(), 1), encoder_count(PolicyConfig(), 2)

    assert one == shared == 11_197_088
    assert encoder_count(PolicyConfig(use_separate_rgb_encoder_per_camera=True), 2) == 2 * one
    without = parameter_count(PolicyConfig(), action_dim=2, vector_dim=66, cameras=0)
    assert parameter_count(PolicyConfig(), action_dim=2, vector_dim=2, cameras=1) - without == one


def test_a_layer_is_reinitialised_as_a_whole() -> None:
    def shapes(**changes: Any) -> dict[str, tuple[int, ...]]:
        config = PolicyConfig(**{**SMALL, **changes})
        return tensor_shapes(config, action_dim=2, vector_dim=3, cameras=1)

    assert reinitialised_layers(shapes(), shapes()) == []
    wider = reinitialised_layers(shapes(), shapes(n_obs_steps=3))
    assert wider
    assert all(layer.endswith("cond_encoder.1") for layer in wider)
    # A BatchNorm's weight and bias have a GroupNorm's names and shapes, and another meaning.
    for before, wanted in ((False, True), (True, False)):
        norms = reinitialised_layers(shapes(use_group_norm=before), shapes(use_group_norm=wanted))
        assert len(norms) == 20
        assert all("backbone" in layer and "conv" not in layer for layer in norms)


def test_nothing_of_another_backbone_is_taken_over() -> None:
    config = PolicyConfig(**SMALL)
    shapes = tensor_shapes(config, action_dim=2, vector_dim=3, cameras=1)
    reinitialised = reinitialised_layers(shapes, shapes, other_backbone=True)

    assert {layer for layer in reinitialised if "backbone" in layer} == set(reinitialised)
    assert "diffusion.rgb_encoder.backbone.0" in reinitialised
    assert "diffusion.rgb_encoder.out" not in reinitialised
