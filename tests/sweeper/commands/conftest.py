"""A sweep whose policies are exported."""

from __future__ import annotations

from pathlib import Path

import pytest
from exported_sweeps import write_sweep


@pytest.fixture
def sweeps(tmp_path: Path) -> Path:
    """The folder of the sweeps, with the sweep ``small`` in it."""
    write_sweep(tmp_path / "sweeps" / "small")
    return tmp_path / "sweeps"
