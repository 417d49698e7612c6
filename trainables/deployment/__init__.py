"""A policy on a robot, whatever kind of policy it is.

It knows a policy by the methods that it needs, so it stands below the policies and the rollouts: they use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.deployment.control.controller import Controller, ControlStatistics
    from trainables.deployment.control.safety import ControlError, Safety
    from trainables.deployment.control.settings import ControlSettings

__all__ = ["ControlError", "ControlSettings", "ControlStatistics", "Controller", "Safety"]

_PLACES = {
    "ControlError": "control.safety",
    "ControlSettings": "control.settings",
    "ControlStatistics": "control.controller",
    "Controller": "control.controller",
    "Safety": "control.safety",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is used: the client of a server has no torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
