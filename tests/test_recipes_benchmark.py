"""The benchmark of the recipes: one small cell, and the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.recipes import FEW, measure, table_of, widths
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT, DatasetConfig
from trainables.diffusion_policy.data import load_dataset

pytestmark = pytest.mark.slow

pytest.importorskip("gym_pusht")


def test_a_cell_is_trained_and_judged(tmp_path: Path) -> None:
    dataset = load_dataset(DatasetConfig(repo_id=BUILTIN_PUSHT), tmp_path / "cache").root
    recipe = replace(FEW, down_dims=(64, 128))
    row = measure(dataset, 12, recipe, 6, 2, tmp_path / "run")
    assert row["down_dims"] == [8, 16] == widths(recipe)
    assert (row["episodes"], row["steps"], sorted(row["errors"])[-1]) == (12, 6, 6)
    assert row["errors"][row["best_step"]] == min(row["errors"].values())
    assert row["reward_low"] <= row["reward"] <= row["reward_high"]

    console = Console(width=200)
    with console.capture() as capture:
        console.print(table_of([row, row | {"episodes": None}]))
    line, everything = capture.get().splitlines()[4:6]
    assert line.split("│")[1:4] == ["       12 ", " few demonstrations ", " 8-16      "]
    assert everything.split("│")[1].strip() == "all"
