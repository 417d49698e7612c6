"""The versions of LeRobot that are compared, and what differs between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "RELEASES", "ROOT", "Release"]

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".interop"


@dataclass(frozen=True)
class Release:
    """A version of LeRobot.

    Attributes:
        version: The version.
        eval_every: The option of ``lerobot-train`` for the steps between evaluations in a simulator.
        new_policy: Options of a new policy that would otherwise fetch something.
    """

    version: str
    eval_every: str
    new_policy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def environment(self) -> Path:
        """Its virtual environment."""
        return FOLDER / f"venv-{self.version}"

    @property
    def target(self) -> str:
        """The format in which policies are exported for it."""
        return f"lerobot=={self.version}"


RELEASES: Mapping[str, Release] = {
    release.version: release
    for release in (
        Release("0.4.4", "eval_freq"),
        # Its default is an encoder with weights of ImageNet, which it fetches.
        Release("0.6.1", "env_eval_freq", {"policy.pretrained_backbone_weights": "null"}),
    )
}
