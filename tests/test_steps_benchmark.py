"""The benchmark of optimiser steps: its parts add up, and a checkpoint is written both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import steps

pytestmark = pytest.mark.slow


def test_the_parts_of_a_step_are_measured_for_every_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    command = ["steps", "--batches", "2", "4", "--rounds", "1", "--only", "state", "--json", str(results)]
    monkeypatch.setattr("sys.argv", command)

    steps.main()

    found = json.loads(results.read_text())
    assert found["machine"]["torch"]
    (rows,) = found["steps"].values()
    assert list(rows) == ["batch 2", "batch 4", "checkpoint"]
    for name in ("batch 2", "batch 4"):
        parts = {part: ms for part, ms in rows[name].items() if part in steps.PARTS}
        assert list(parts) == list(steps.PARTS)
        assert rows[name]["step"] == pytest.approx(sum(parts.values()))
        assert min(parts.values()) > 0
    assert min(rows["checkpoint"].values()) > 0
    assert "ms a step" in capsys.readouterr().out
