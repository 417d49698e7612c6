"""Reads NumPy archives whole: one left open is closed at a random moment, in the middle of another test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["read_arrays"]


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of an ``.npz`` file by name."""
    with np.load(path) as archive:
        return dict(archive)
