"""A policy's inputs and outputs among a dataset's columns. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

__all__ = ["ACTION", "ENVIRONMENT_STATE", "STATE", "Feature", "FeatureType", "PolicyFeatures"]

ACTION = "action"
STATE = "observation.state"
ENVIRONMENT_STATE = "observation.environment_state"


class FeatureType(StrEnum):
    """LeRobot's types of a policy feature; the values are the words in a checkpoint's config.json."""

    VISUAL = "VISUAL"
    STATE = "STATE"
    ENV = "ENV"
    ACTION = "ACTION"


@dataclass(frozen=True)
class Feature:
    """One input or output of a policy.

    Attributes:
        name: LeRobot's name, e.g. ``observation.images.front``.
        type: What it is.
        shape: Shape of one frame: (C, H, W) for images, (D,) for vectors.
    """

    name: str
    type: FeatureType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class PolicyFeatures:
    """A policy's inputs, in the order of the dataset's info.json, and its one output."""

    inputs: tuple[Feature, ...]
    action: Feature

    @property
    def cameras(self) -> tuple[Feature, ...]:
        """The image inputs, in order; the order in which an encoder per camera is numbered."""
        return tuple(feature for feature in self.inputs if feature.type is FeatureType.VISUAL)

    @property
    def state_dim(self) -> int:
        """Numbers in ``observation.state`` (0 if there is none)."""
        return self._dim(FeatureType.STATE)

    @property
    def environment_state_dim(self) -> int:
        """Numbers in ``observation.environment_state`` (0 if there is none)."""
        return self._dim(FeatureType.ENV)

    @property
    def action_dim(self) -> int:
        """Numbers in ``action``."""
        return self.action.shape[0]

    def all(self) -> tuple[Feature, ...]:
        """Inputs and output."""
        return (*self.inputs, self.action)

    def _dim(self, kind: FeatureType) -> int:
        return sum(feature.shape[0] for feature in self.inputs if feature.type is kind)

    @staticmethod
    def of(features: Iterable[Feature]) -> PolicyFeatures:
        """Sort features into inputs and output.

        Raises:
            ValueError: If ``action`` is missing.
        """
        listed = tuple(features)
        actions = [feature for feature in listed if feature.name == ACTION]
        if not actions:
            raise ValueError(f"no feature is called {ACTION!r} among {[feature.name for feature in listed]}")
        return PolicyFeatures(tuple(f for f in listed if f.type is not FeatureType.ACTION), actions[0])

    @staticmethod
    def from_json(listed: Any) -> PolicyFeatures:
        """Read the features from a checkpoint of this project.

        Raises:
            KeyError, TypeError, ValueError: If they have another form.
        """
        return PolicyFeatures.of(
            Feature(str(item["name"]), FeatureType(item["type"]), tuple(int(n) for n in item["shape"]))
            for item in listed
        )
