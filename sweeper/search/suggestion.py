"""A trial as the study hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Suggestion"]


@dataclass(frozen=True)
class Suggestion:
    """A trial to run.

    Attributes:
        number: The trial's number, counted from 0 without gaps.
        values: The searched parameters that exist in this trial.
        config: The whole configuration: fixed values and ``values``.
    """

    number: int
    values: Mapping[str, Any]
    config: Mapping[str, Any]
