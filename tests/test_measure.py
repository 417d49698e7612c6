"""The numbers about the source: each is counted as its description says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.measure import PACKAGES, ROOT, as_table, measure
from tests.rooms import rank_of, runs_up, without_rank

FILES = {
    "sweeper/__init__.py": '__version__ = "1"\n',
    "sweeper/one.py": "from sweeper import two\nimport sweeper.three\n\n\ndef f(a: int) -> None:\n    pass\n",
    "sweeper/two.py": "def g(b):\n    from . import one\n    import json\n\n    return one, json\n",
    "sweeper/three.py": "from sweeper import __version__\n",
    "trainables/__init__.py": "",
    "trainables/room/__init__.py": "from trainables.room.four import h\n",
    "trainables/room/four.py": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from trainables.room import five\n\n\n"
        "class A:\n    def h(self) -> None:\n        def inner(*c: int) -> None: ...\n"
    ),
    "trainables/room/five.py": "import trainables.room.four\n",
}


def made(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_each_number_is_counted_as_described(tmp_path):
    numbers = measure(made(tmp_path))
    assert numbers["files"] == 8
    assert numbers["lines"] == sum(text.count("\n") for text in FILES.values())
    assert numbers["folders"] == {"sweeper": 3, "trainables/room": 2}
    assert numbers["circles"] == [
        ["sweeper.one", "sweeper.two"],
        ["trainables.room.five", "trainables.room.four"],
    ]
    assert numbers["own_imports_in_functions_by_file"] == {"sweeper/two.py": 1}
    assert numbers["functions"] == 4
    assert numbers["longest_function"] == {"name": "sweeper.two.g", "lines": 5}
    assert numbers["annotated_share"] == 0.75
    assert numbers["imports_up"] is None
    assert "| imports that run up | n/a (6 files have no rank) |" in as_table(numbers)


def test_an_import_goes_down_or_stays_in_its_room():
    assert runs_up("sweeper.records.journal", "sweeper.terminal.tables")
    assert runs_up("sweeper.records.journal", "sweeper.search.study")  # of one rank
    assert not runs_up("sweeper.terminal.tables", "sweeper.records.journal")
    assert not runs_up("sweeper.records.ranking", "sweeper.records.journal")
    assert runs_up("trainables.dataset.open", "trainables.dataset.doctor.quick")
    assert not runs_up("trainables.diffusion_policy.training.train", "trainables.dataset.open")
    assert not runs_up("sweeper.cli", "trainables.registry")
    assert rank_of("sweeper", "sweeper") == (0, "__init__")
    assert without_rank({"sweeper.nowhere", "sweeper.cli", "json"}) == {"sweeper.nowhere"}


@pytest.mark.slow
def test_this_checkout_is_measured_as_a_whole():
    numbers = measure(ROOT)
    assert numbers["files"] == sum(len(list((ROOT / name).rglob("*.py"))) for name in PACKAGES) > 100
    assert re.search(r"\| functions \| [0-9],[0-9]{3} \|", as_table(numbers))
