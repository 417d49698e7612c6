"""`make check` leaves out what is slow, and still tests something of every room."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from tests.fast_tests import fast_tests, has_none

TESTS = Path(__file__).parent


def test_every_room_has_a_fast_test() -> None:
    rooms: defaultdict[Path, list[Path]] = defaultdict(list)
    for path in TESTS.rglob("test_*.py"):
        rooms[path.parent].append(path)
    assert len(rooms) > 30
    assert [str(room) for room, modules in rooms.items() if not any(map(fast_tests, modules))] == []


@pytest.mark.parametrize(
    ("line", "none"),
    [
        ("pytestmark = pytest.mark.slow  # imports torch", True),
        ("pytestmark = [\n    pytest.mark.filterwarnings('default'),\n    pytest.mark.ray,\n]", True),
        ("pytestmark = pytest.mark.filterwarnings('default')", False),
        ("@pytest.mark.slow\ndef test_one(): ...", False),
    ],
)
def test_a_module_without_fast_tests_says_so(tmp_path: Path, line: str, none: bool) -> None:
    (tmp_path / "test_it.py").write_text(f"import pytest\n\n{line}\n")
    assert has_none(tmp_path / "test_it.py") == none
