"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# The tests compare numbers, and one thread makes them the same everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference files and real datasets that may lie beside the checkout."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference files (a folder `shared` beside the checkout) are not here")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have golden files made again with ``--remake-golden``."""
    parser.addoption("--remake-golden", action="store_true", help="Write golden files instead of comparing.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what stays together when several processes run the tests: a module, and all that share a Ray."""
    for item in items:
        group = "ray" if "cluster" in getattr(item, "fixturenames", ()) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
