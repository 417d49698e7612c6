"""Benchmarks launch their sweeps as a user does, and show why one failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.launched import failed, start_sweep, sweep_folder


@pytest.mark.slow  # a process that loads the command
def test_a_launched_sweep_gets_its_space_and_its_output_is_shown_if_it_fails(tmp_path: Path) -> None:
    space = {"name": "broken", "trainable": "benchmarks.overhead:TRAINABLE", "config": {"steps": 3}}
    assert start_sweep(tmp_path, space, "budget.trials=two").wait() != 0
    end = str(failed(tmp_path, "the sweep failed"))
    assert end.startswith("the sweep failed:\n")
    assert "broken.yaml" in end
    assert "budget.trials" in end
    assert sweep_folder(tmp_path, space) == tmp_path / "sweeps" / "broken"
