"""A sweep that examines inference settings ranks trials by the setting that was chosen for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import plain_console
from played_sweeps import client_of
from small_sweeps import choice, spec

from sweeper.driver.launch import launch
from sweeper.layout import STATE, trial_folder
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.sweep import InferenceSpec, Objective, SweepSpec
from sweeper.tracking.state import read_state
from trainables.episodes import read_episodes

# MLflow and Ray warn of their own habits.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

SUCCESS = "rollout/success_rate"


def tuned_sweep(folder: Path, **inference: Any) -> SweepSpec:
    return spec(
        folder,
        choice("skill", 0.3, 0.6),
        trials=2,
        trainable="reaching_policies:TRAINABLE",
        objectives=(Objective(SUCCESS, "maximize"),),
        inference=InferenceSpec(
            {"luck": (-0.2, 0.3), "effort": (1.0, 2.0)}, SUCCESS, "maximize", 64, **inference
        ),
    )


def test_each_trial_gets_its_best_setting(cluster: Any, tmp_path: Path) -> None:
    wanted = tuned_sweep(tmp_path / "tuned")
    assert launch(wanted, console=plain_console()) == 0
    sweep = read_sweep(wanted.folder)
    for trial in sweep.trials.values():
        assert trial.setting == {"luck": 0.3}
        assert trial.untuned[SUCCESS] < trial.final[SUCCESS] == trial.metrics[SUCCESS]
        assert len(trial.tried) == 5
        judged = trial_folder(wanted.folder, trial.number) / "episodes"
        names = {path.name.partition("-")[2] for path in judged.iterdir()}
        assert {name.partition("-")[0].removesuffix(".jsonl") for name in names} == {"search", "choice"}
        for path in judged.iterdir():
            assert read_episodes(path)[1]
    best = sweep.best_trial()
    assert best is not None
    assert best.values == {"skill": 0.6}
    state = read_state(wanted.folder / STATE)
    run = client_of(wanted.folder).get_run(state.runs[str(best.number)]).data
    assert run.metrics[f"tuned/{SUCCESS}"] == run.metrics[f"final/{SUCCESS}"] == best.final[SUCCESS]
    assert run.tags["tuned.luck"] == "0.3"


def test_limits_that_no_setting_keeps_lose_no_trial(cluster: Any, tmp_path: Path) -> None:
    wanted = tuned_sweep(tmp_path / "limited", limits={"eval/chunk_latency_ms": 1.0})
    assert launch(wanted, console=plain_console()) == 0
    sweep = read_sweep(wanted.folder)
    assert [trial.setting for trial in sweep.trials.values()] == [{}, {}]
    assert sweep.count("completed") == 2
    journal = (wanted.folder / "journal.jsonl").read_text()
    assert journal.count("no inference setting was chosen: none of 5 settings keeps the limits") == 2
