"""The benchmark of control modes: its table, its figure, and how it continues."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from benchmarks.control import WARM_STARTS, Cell, Start, draw, run, run_warm_starts, table_of, table_of_starts


def cell(mode: str, replan: float | None, latency_ms: int, reward: float) -> Cell:
    rewards = (reward + 0.1 * np.sin(np.arange(12))).tolist()
    return Cell(mode, replan, latency_ms, rewards, [True, False] * 6, [2.0] * 12)


CELLS = [
    cell("sync", None, 0, 0.5),
    cell("sync", None, 100, 0.3),
    cell("rtc", 0.5, 0, 0.5),
    cell("rtc", 0.5, 100, 0.4),
]


def shown(cells: list[Cell]) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table_of(cells))
    return capture.get()


def test_the_table_compares_with_the_synchronous_mode_at_the_same_latency():
    rows = {tuple(line.split("│")[1:3]): line for line in shown(CELLS).splitlines() if " ms" in line}
    assert len(rows) == 4
    late = next(line for line in rows.values() if "100 ms" in line and "replan 0.5" in line)
    assert "+0.100" in late
    assert "0.50" in late
    assert not any("+" in line for line in rows.values() if "synchronous" in line)
    assert "the same" in shown([CELLS[0], replace(CELLS[0], mode="ensemble")])


@pytest.mark.slow
def test_the_figure_is_drawn(tmp_path: Path):
    path = tmp_path / "figures" / "control.svg"
    draw(CELLS, path)
    text = path.read_text()
    assert text.startswith("<?xml")
    draw(CELLS, path)
    assert path.read_text() == text  # the same numbers give the same file


def options(path: Path, **changed: object) -> argparse.Namespace:
    given = {"episodes": 12, "samples": 1, "checkpoint": "x", "json": path, "replan": [0.5], "mode": ["rtc"]}
    return argparse.Namespace(**{**given, "latency": [50, 0, 100], **changed})


def test_finished_cells_are_not_measured_again_and_equal_numbers_of_steps_share_them(tmp_path: Path):
    policy, path = SimpleNamespace(n_action_steps=8), tmp_path / "cells.json"
    setting = {"episodes": 12, "samples": 1, "checkpoint": "x", "n_action_steps": 8}
    path.write_text(json.dumps({"setting": setting, "cells": [asdict(one) for one in CELLS]}))
    cells = run(policy, options(path), Console(quiet=True))
    assert [one.latency_ms for one in cells] == [0, 0, 50, 100, 100]
    fifty = next(one for one in cells if one.latency_ms == 50)
    assert fifty.rewards == CELLS[3].rewards  # 50 and 100 ms are one step of 10 Hz
    assert len(json.loads(path.read_text())["cells"]) == 5
    with pytest.raises(SystemExit, match="has another setting"):
        run(policy, options(path, episodes=13), Console(quiet=True))


def started(steps: int, skipped: int) -> Start:
    reward = 0.1 * (steps - skipped) + (0.05 if skipped else 0.0)
    return Start(steps, skipped, (reward + 0.02 * np.sin(np.arange(12))).tolist(), [reward > 0.5] * 12)


def test_warm_starts_are_compared_with_all_steps_and_with_as_many_from_noise(tmp_path: Path):
    path, opened = tmp_path / "starts.json", SimpleNamespace()  # finished rows need no policy
    arguments = argparse.Namespace(episodes=12, checkpoint="x", n_action_steps=8, json=path)
    setting = {"episodes": 12, "checkpoint": "x", "n_action_steps": 8}
    rows = [started(steps, skipped) for steps, skipped in WARM_STARTS]
    path.write_text(json.dumps({"setting": setting, "starts": [asdict(row) for row in rows]}))
    assert run_warm_starts(opened, arguments, Console(quiet=True)) == rows
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table_of_starts(rows))
    lines = {line.split("│")[1].strip(): line for line in capture.get().splitlines() if "│" in line}
    assert "-0.550" in lines["2 from the last chunk (8, 6 skipped)"]  # to all steps
    assert "+0.050" in lines["2 from the last chunk (8, 6 skipped)"]  # to two steps from noise
    assert "-0.600" in lines["2 from noise"]
    assert "+" not in lines["8 from noise"]
    with pytest.raises(SystemExit, match="has another setting"):
        run(SimpleNamespace(n_action_steps=8), options(path), Console(quiet=True))
