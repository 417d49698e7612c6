"""The simulated sweeps: the recorded table, what trials report, and what a sweep does with it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import learning_curves
from benchmarks.learning_curves import ERROR, EVERY, RUNGS, SPACE, STEPS, draw, read_table
from benchmarks.search.comparison import bootstrap, rows
from benchmarks.search.curves import Fitted, Recorded
from benchmarks.search.promotion import Promotion
from benchmarks.search.sweeps import FIRST, SAMPLERS, STOPPERS, Played, play
from trainables.diffusion_policy.trainable import TRAINABLE

TRIALS = read_table()["trials"]
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return Fitted(TRIALS)


@pytest.fixture(scope="module")
def recorded(fitted: Fitted) -> Recorded:
    return Recorded(TRIALS, fitted.lengths)


def test_the_table_has_a_whole_curve_of_each_drawn_configuration() -> None:
    table = read_table()
    assert len(TRIALS) >= 60
    assert (table["every"], table["config"]["train.steps"]) == (EVERY, STEPS)
    assert table["config"] == json.loads(json.dumps(dict(learning_curves.CONFIG)))
    assert table["machine"]["processor"]
    for number, trial in enumerate(TRIALS):
        assert set(trial) == {"values", "cpu_s", ERROR}
        assert trial["values"] == draw(number)
        assert all(parameter.contains(trial["values"][parameter.name]) for parameter in SPACE.parameters)
        assert len(trial[ERROR]) == RUNGS
        assert all(math.isfinite(error) and error > 0 for error in trial[ERROR])
    assert learning_curves.TABLE.stat().st_size < 50_000


def test_every_recorded_configuration_can_be_trained() -> None:
    for trial in TRIALS:
        assert TRAINABLE.faults({**learning_curves.CONFIG, **trial["values"]}) == []


def test_a_recorded_configuration_has_its_own_curve(recorded: Recorded) -> None:
    for trial in TRIALS:
        assert recorded.reported(trial["values"], (0, 0)).tolist() == trial[ERROR]
    assert recorded.best == min(trial[ERROR][-1] for trial in TRIALS)


@pytest.mark.slow
def test_the_fit_explains_what_differs_between_configurations(fitted: Fitted) -> None:
    last = np.log([trial[ERROR][-1] for trial in TRIALS])
    predicted = np.log([fitted.true(trial["values"])[-1] for trial in TRIALS])
    assert ((last - predicted) ** 2).sum() < 0.2 * ((last - last.mean()) ** 2).sum()
    assert fitted.best <= min(fitted.true(trial["values"])[-1] for trial in TRIALS) * 1.02


def test_noise_depends_on_its_seed_only_and_is_that_of_a_recorded_curve(fitted: Fitted) -> None:
    values = TRIALS[0]["values"]
    once = fitted.reported(values, (1, 2))
    assert (once == fitted.reported(values, (1, 2))).all()
    drawn = {tuple(np.round(fitted.reported(values, (0, n)) / fitted.true(values), 6)) for n in range(500)}
    assert 1 < len(drawn) <= len(TRIALS)


def test_a_trial_pauses_at_a_rung_and_the_best_there_continues() -> None:
    promotion = Promotion((10, 30), reduction=3)
    assert not promotion.pauses(0, 5, 1.0)
    assert all(promotion.pauses(number, 10, error) for number, error in enumerate((3.0, 1.0)))
    assert promotion.promote() is None  # of two trials none is among the best third
    promotion.pauses(2, 10, 2.0)
    assert promotion.promote() == 1
    assert promotion.promote() is None
    for number in (3, 4, 5):
        promotion.pauses(number, 10, 9.0)
    assert promotion.promote() == 2  # it was not good enough before
    for number, error in ((1, 5.0), (2, 0.5), (6, 7.0)):
        promotion.pauses(number, 30, error)
    assert promotion.promote() == 2  # the highest rung comes first


@pytest.mark.slow
@pytest.mark.parametrize("stopper", STOPPERS)
def test_a_simulated_sweep_is_a_function_of_its_seed(fitted: Fitted, stopper: str) -> None:
    once = play(fitted, "random", stopper, seed=3, trainings=6)
    assert once == play(fitted, "random", stopper, seed=3, trainings=6)
    assert once != play(fitted, "random", stopper, seed=4, trainings=6)
    assert fitted.best * 0.99 <= once.error


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_can_be_played(recorded: Recorded, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    found = play(recorded, sampler, "asha", seed=0, trainings=5)
    assert found.begun > found.completed >= 1
    assert found.error in [trial[ERROR][-1] for trial in TRIALS]


def test_equal_budgets_are_spent_in_steps_not_in_trials(fitted: Fitted) -> None:
    without, asha, promotion = (play(fitted, "random", kind, 0, 8) for kind in ("none", "asha", "promotion"))
    assert (without.begun, without.completed) == (8, 8)
    for found in (asha, promotion):
        assert found.begun > 8 > found.completed
        # No trial has fewer steps than to the first rung, except those that the end cut off.
        assert found.completed * STEPS + (found.begun - found.completed) * FIRST <= 8 * STEPS


def test_without_early_stopping_the_best_reported_of_the_first_trials_is_chosen(recorded: Recorded) -> None:
    found = play(recorded, "random", "none", seed=0, trainings=4)
    assert [end[0] for end in found.ends] == [end[1] for end in found.ends]
    assert found.error == min(found.ends)[1]


def test_differences_are_those_of_equal_seeds() -> None:
    def played(*errors: float) -> list[Played]:
        return [Played(error, 1, 1, ()) for error in errors]

    found = rows({("random", "none"): played(110, 130), ("tpe", "asha"): played(100, 120)}, best=100.0)
    assert [row.error for row in found] == pytest.approx([20.0, 10.0])
    assert found[1].gain["random, none"] == pytest.approx(10.0)
    assert found[1].gain_interval["random, none"] == pytest.approx((10.0, 10.0))
    low, high = bootstrap(np.arange(100.0))
    assert 40 < low < 49.5 < high < 60


@pytest.mark.slow
def test_the_command_compares_the_methods_and_writes_what_it_found(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.search", "--sweeps", "2", "--trainings", "4", "--long", "8"]
    command += ["--samplers", "random", "tpe", "--stoppers", "none", "asha", "promotion", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    for kind in ("fitted", "recorded"):
        assert {(row["sampler"], row["stopper"]) for row in found[kind]} == {
            (sampler, stopper) for sampler in ("random", "tpe") for stopper in ("none", "asha", "promotion")
        }
    assert {row["stagnation"] for row in found["stagnation, tpe, asha"]} == {5, 10, 15, 20, 30}
