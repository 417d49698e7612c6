"""The examples that users start from, run as a user runs them."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import gymnasium
import numpy as np
import pytest
from command_line import ended, run_in

from sweeper.layout import JOURNAL
from sweeper.records.journal import read_journal
from trainables.evaluation.simulators import environment_faults, make_environment
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; sys.argv[0] = 'sweeper'; from sweeper.cli import main; main()"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of the examples, which tests may fill."""
    return Path(shutil.copytree(ROOT / "examples", tmp_path / "examples"))


def sweeper(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, as a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SWEEPER_CACHE": str(folder / "cache")}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_every_example_is_found_and_has_a_space():
    assert {path.name for path in (ROOT / "examples").iterdir() if path.is_file()} == {"sine.py", "sine.yaml"}


def test_the_custom_trainable_is_checked(examples: Path, monkeypatch, capsys):
    run_in(examples, monkeypatch)
    monkeypatch.syspath_prepend(str(examples))
    assert ended("check", "sine.yaml") == 0
    assert "minimize test_error" in capsys.readouterr().out
    assert ended("check", "sine.yaml", "config.widht=3", "metric.name=loss") == 2
    assert "Did you mean width?" in capsys.readouterr().err
    assert ended("check", "sine.yaml", "config.depth=3") == 2
    assert "Fields: lr, width, train.steps, train.log_every, train.eval_every." in capsys.readouterr().err
    assert ended("check", "sine.yaml", "metric.name=error") == 2
    assert "Did you mean test_error?" in capsys.readouterr().err


@pytest.fixture
def metaworld_tasks(examples: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the Meta-World example; it can be imported without Meta-World."""
    monkeypatch.syspath_prepend(str(examples / "metaworld"))
    module = importlib.import_module("metaworld_tasks")
    yield module
    gymnasium.registry.pop(module.ID, None)
    sys.modules.pop("metaworld_tasks", None)


def test_the_space_of_the_metaworld_example_is_checked(examples: Path, monkeypatch, capsys):
    run_in(examples / "metaworld", monkeypatch)
    assert ended("check", "push.yaml") == 0
    assert "maximize rollout/success_rate" in capsys.readouterr().out


def test_the_metaworld_adapter_shows_hand_puck_and_goal(metaworld_tasks: ModuleType):
    assert metaworld_tasks.ID in gymnasium.registry
    seen = metaworld_tasks.split(np.arange(39.0))
    assert {name: value.tolist() for name, value in seen.items()} == {
        "agent_pos": [0.0, 1.0, 2.0, 3.0],
        "environment_state": [4.0, 5.0, 6.0, 36.0, 37.0],
    }
    assert {value.dtype.name for value in seen.values()} == {"float32"}


@pytest.mark.slow
def test_the_metaworld_adapter_starts_where_the_seed_says(metaworld_tasks: ModuleType):
    pytest.importorskip("metaworld", reason="Meta-World is not installed")
    state, scene, action = (4,), (5,), (4,)
    inputs = Feature(STATE, FeatureType.STATE, state), Feature(ENVIRONMENT_STATE, FeatureType.ENV, scene)
    features = PolicyFeatures(inputs, Feature(ACTION, FeatureType.ACTION, action))
    assert environment_faults(metaworld_tasks.ID, features) == []
    environment = make_environment(metaworld_tasks.ID, features)
    first, again, other = (environment.reset(seed)[ENVIRONMENT_STATE] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (abs(first - other)[[0, 1, 3, 4]] > 1e-3).all()
    # The goal stays visible after a step: Meta-World hides it, and caches bounds that cut it off.
    np.testing.assert_allclose(environment.step(np.zeros(4)).observation[ENVIRONMENT_STATE][3:], other[3:])
    environment.close()


@pytest.mark.ray
@pytest.mark.slow
def test_the_custom_trainable_is_swept_by_the_command(examples: Path):
    # Without early stopping: it depends on the machine which of two trials reaches the rung first.
    run = sweeper(examples, "launch", "sine.yaml", "budget.trials=2", "early_stop=null")
    assert run.returncode == 0, run.stdout + run.stderr
    shown = sweeper(examples, "results", "sine", "--json")
    trials = json.loads(shown.stdout)["trials"]
    assert sorted(trial["status"] for trial in trials) == ["completed", "completed"]
    for trial in trials:
        assert set(trial["metrics"]) >= {"loss", "test_error"}
        assert 0 < trial["metrics"]["test_error"] < 1
    # The learning curve is in the journal under names without a slash, with an evaluation every 100 steps.
    events = read_journal(examples / "sweeps" / "sine" / JOURNAL).events
    reports = [event for event in events if "metrics" in event and event["trial"] == 0]
    names = trials[0]["metrics"]
    steps = {name: [event["step"] for event in reports if name in event["metrics"]] for name in names}
    assert steps["test_error"] == [100, 200, 300, 400]
    assert steps["loss"] == [50, 100, 150, 200, 250, 300, 350, 400]
