"""Sweeps in Python, as a notebook uses them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exported_sweeps import write_sweep
from played_sweeps import Sweep as Played
from reaching_sweeps import ended_sweep, record_episodes
from small_sweeps import SUCCESS

import sweeper
from sweeper.errors import SpecError, UserError
from trainables.deployment import Controller

ROOT = Path(__file__).parents[2]


@pytest.fixture
def written(tmp_path: Path) -> sweeper.Sweep:
    write_sweep(tmp_path / "sweeps" / "small")
    return sweeper.load("small", tmp_path / "sweeps")


def test_the_trials_are_a_table_best_first(written):
    table = written.trials()
    assert list(table.index) == [1, 0, 2]
    assert table.index.name == "trial"
    assert list(table["status"]) == ["completed", "completed", "failed"]
    assert table.loc[1, "eval/action_mse"] == 0.3
    assert table.loc[0, "optimizer.lr"] == 1e-4
    assert table["rank"].tolist()[:2] == [1, 2]
    assert "1 sweep" not in repr(written)
    assert "small" in repr(written)
    assert "3 trials" in repr(written)


def test_settings_and_certainty_are_in_the_table(tmp_path):
    skills = (0.3, 0.9)
    folder = ended_sweep(tmp_path / "sure", *skills).folder
    for trial, skill in enumerate(skills):
        record_episodes(folder, trial, skill, 50)
    assert sweeper.load(folder).trials().loc[1, "episodes"] == 50
    Played(folder).tuned(1, {"luck": 0.05}, 0.95, 0.9)
    table = sweeper.load(folder).trials()
    assert table.loc[1, "setting.luck"] == 0.05
    assert np.isnan(table.loc[0, "setting.luck"])
    assert table.loc[1, SUCCESS] == 0.95


def test_the_best_is_the_confirmed_one_if_there_is_one(tmp_path):
    folder = ended_sweep(tmp_path / "sweep", 0.5, 0.9).folder
    assert sweeper.load(folder).best().number == 1
    Played(folder).confirmed((0, 0.8, 0.9), (1, 0.7, 0.1))
    assert sweeper.load(folder).best().number == 0


@pytest.mark.slow
def test_a_policy_acts_in_a_control_loop(written):
    policy = written.policy(device="cpu")
    observation = {"observation.state": np.zeros(2), "observation.environment_state": np.zeros(3)}
    with Controller(policy, rate_hz=10) as controller:
        assert controller.step(observation).shape == (2,)
    assert written.policy(0, device="cpu").n_action_steps == 4


@pytest.mark.slow
def test_the_chosen_setting_is_that_of_the_policy(written):
    Played(written.folder).tuned(1, {"policy.n_action_steps": 2}, 0.1, 0.3)
    assert written.policy(1, device="cpu").n_action_steps == 2


def test_wrong_names_are_refused(written, tmp_path):
    with pytest.raises(UserError, match="there is no trial 9"):
        written.policy(9)
    with pytest.raises(UserError, match="no sweep"):
        sweeper.load("nowhere", tmp_path / "sweeps")
    with pytest.raises(UserError, match="gives no policy"):
        sweeper.load(ended_sweep(tmp_path / "other", 0.5).folder).policy()
    with pytest.raises(SpecError, match=r"budget\.trials"):
        sweeper.launch("pusht_quick", {"budget.trials": 0}, sweeps=tmp_path / "sweeps")
    with pytest.raises(AttributeError, match="has no attribute 'lauch'"):
        sweeper.lauch  # noqa: B018


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_is_launched_and_continued(tmp_path):
    for name in ("sine.py", "sine.yaml"):
        shutil.copy(ROOT / "examples" / name, tmp_path)
    program = (
        "import sweeper\n"
        "changes = {'budget.trials': 2, 'early_stop': None, 'config.train.steps': 100}\n"
        "changes['parameters.width.values'] = [8]\n"
        "sweep = sweeper.launch('sine.yaml', changes)\n"
        "assert sweep.trials()['status'].tolist() == ['completed'] * 2, sweep.trials()\n"
        "assert sweeper.load('sine').best().values['width'] == 8\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{tmp_path}",
            "SWEEPER_CACHE": str(tmp_path / "cache"),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
