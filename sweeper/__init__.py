"""The sweep service: search spaces, scheduling, tracking and the command line.

In Python: ``sweeper.launch(space)`` runs a sweep, and ``sweeper.load(name)`` reads one (`sweeper.notebook`).
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["__version__"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import what notebooks use when it is used: no command needs it."""
    if name not in ("Sweep", "launch", "load"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("sweeper.notebook"), name)
