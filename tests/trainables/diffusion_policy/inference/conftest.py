"""What the tests of opened policies share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module", autouse=True)
def reach_simulator() -> Any:
    """Make the simulator of the evaluation tests importable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "evaluation")
        yield
