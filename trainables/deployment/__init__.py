"""A policy on a robot, whatever kind of policy it is.

It knows a policy by the methods that it needs, so it stands below the policies and the rollouts: they use it.

- ``control/``: from observations to actions at a control rate
- ``server/``: policies over a WebSocket
- ``client``: a policy on a server, used like one on this machine; needs no torch
- ``bundle``: one file with a policy and everything that is needed to use it on another machine
- ``card``: the model card, what was measured of a policy and what was not
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainables.deployment.bundle import Bundle, BundleError, open_bundle
    from trainables.deployment.client import RemotePolicy, RemotePolicyError
    from trainables.deployment.control.controller import Controller, ControlStatistics
    from trainables.deployment.control.safety import ControlError, Safety
    from trainables.deployment.control.settings import ControlSettings

__all__ = [
    "Bundle",
    "BundleError",
    "ControlError",
    "ControlSettings",
    "ControlStatistics",
    "Controller",
    "RemotePolicy",
    "RemotePolicyError",
    "Safety",
    "open_bundle",
]

_PLACES = {
    "Bundle": "bundle",
    "BundleError": "bundle",
    "ControlError": "control.safety",
    "ControlSettings": "control.settings",
    "ControlStatistics": "control.controller",
    "Controller": "control.controller",
    "RemotePolicy": "client",
    "RemotePolicyError": "client",
    "Safety": "control.safety",
    "open_bundle": "bundle",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is used: a robot's computer may have neither torch nor the extra packages."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
