"""The benchmark of a whole sweep: equal configurations on both sides, parts, and how it continues."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sweep
from benchmarks.sweep import FULL, INNER, OURS, QUICK, STOPPED, THEIRS, Size
from sweeper.spec.space_file.load import load_spec
from trainables import registry

STATE = Size("state", 2, 40, 8, 4)


@pytest.mark.slow
@pytest.mark.parametrize("size", [*FULL, *QUICK], ids=lambda size: f"{size.task}-{size.steps}")
@pytest.mark.parametrize("who", [OURS, STOPPED, INNER])
def test_the_space_is_valid_and_trains_what_lerobot_trains(size: Size, who: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(json.dumps(sweep.space(size, tmp_path, who)))
    spec = load_spec(str(file), [], tmp_path)
    assert spec.budget.trials == size.configurations
    trainable = registry.load(spec.trainable)
    for horizon, rate in sweep.configurations(size):
        ours = {"policy.n_action_steps": sweep.EXECUTED, **spec.config}
        ours |= {"policy.horizon": horizon, "optimizer.lr": rate}
        assert trainable.faults(ours) == []
        theirs = sweep.train_options(size, tmp_path, tmp_path, horizon, rate)
        assert theirs["policy.optimizer_lr"] == ours["optimizer.lr"]
        assert theirs["steps"] == ours["train.steps"]
        assert theirs["batch_size"] == ours["train.batch_size"]
        same = ("n_obs_steps", "horizon", "n_action_steps", "num_inference_steps", "prediction_type")
        assert [theirs[f"policy.{name}"] for name in same] == [ours[f"policy.{name}"] for name in same]
        assert list(json.loads(theirs["policy.input_features"])) == ours["dataset.observations"]


def test_compared_cells_alternate() -> None:
    order = [(who, number) for _, who, number in sweep.cells([STATE], 2, variants=True)]
    assert order == [(OURS, 0), (THEIRS, 0), (OURS, 1), (THEIRS, 1), (STOPPED, 0), (INNER, 0)]


def test_parts_of_a_trial_are_read_from_its_journal(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    film.touch()
    os.utime(film, (131.0, 131.0))
    speed = {"train/samples_per_s": 80.0, "train/data_wait_fraction": 0.25}
    events: list[dict[str, Any]] = [
        {"event": "trial_start", "time": 100.0, "trial": 0},
        {"event": "report", "time": 112.0, "trial": 0, "step": 20, "metrics": speed},
        {
            "event": "report",
            "time": 132.0,
            "trial": 0,
            "step": 40,
            "metrics": speed,
            "artifacts": {"film": str(film)},
        },
        {"event": "trial_end", "time": 135.0, "trial": 0, "step": 40},
    ]
    parts = sweep.trial_parts(events, batch=8)
    # Two intervals of 20 steps × 8 samples at 80 a second: 2 s each, a quarter of it waiting for data.
    assert parts == {"set-up": 13.0, "data": 1.0, "steps": 3.0, "evaluation": 17.0, "checkpoints": 1.0}
    # With an inner search the time after the last checkpoint is that of the search.
    tuned = sweep.trial_parts([*events, {"event": "tuned", "time": 132.0, "trial": 0}], batch=8)
    assert tuned == {"set-up": 10.0, "data": 1.0, "steps": 3.0, "evaluation": 21.0, "checkpoints": 0.0}


def test_parts_of_a_trial_are_read_from_lerobots_log() -> None:
    log = (
        "INFO 2026-11-28 15:57:56 ot_train.py:641 step:10 loss:0.1 updt_s:0.500 data_s:0.100 smp/s:3\n"
        "INFO 2026-11-28 15:58:06 ot_train.py:641 step:20 loss:0.1 updt_s:0.300 data_s:0.100 smp/s:3\n"
        "Training: 100%|#| 40/40\rINFO 2026-11-28 15:58:08 ot_train.py:687 Checkpoint policy after step 40\n"
        "INFO 2026-11-28 15:58:11 ot_train.py:770 End of training\n"
    )
    parts = sweep.lerobot_parts(log, STATE, {"wall_s": 30.0}, {"wall_s": 20.0}, eval_s=12.0)
    assert parts["steps"] == pytest.approx(8.0)
    assert parts["data"] == pytest.approx(2.0)
    assert parts["checkpoints"] == 3.0
    assert parts["set-up"] == pytest.approx(25.0)


def test_a_second_call_measures_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    clock = itertools.count(1)

    def answer(who: str) -> dict[str, Any]:
        measured.append(who)
        parts = dict.fromkeys(sweep.PARTS, 1.0)
        return {"wall_s": 36.0 * next(clock), "cpu_s": 20.0, "trials": 2, "steps": 80, "parts": parts}

    monkeypatch.setattr(sweep, "ensure_dataset", lambda cache, images: tmp_path)
    monkeypatch.setattr(sweep, "versions", lambda lerobot: {"lerobot": "0.6.1"})
    monkeypatch.setattr(sweep, "run_sweeper", lambda size, root, folder, who: answer(who))
    monkeypatch.setattr(sweep, "run_lerobot", lambda size, root, folder, lerobot: answer(THEIRS))
    file, console = tmp_path / "sweep.json", sweep.Console(quiet=True)
    cells = sweep.cells([STATE], 1, variants=False)
    sweep.run(cells[:1], tmp_path, tmp_path, file, console)
    rows = sweep.run(cells, tmp_path, tmp_path, file, console)
    assert measured == [OURS, THEIRS]
    ours, theirs = sweep.summary(rows)
    assert (ours["trials/h"], theirs["trials/h"]) == (200.0, 100.0)
    assert (ours["to LeRobot"], theirs["to LeRobot"]) == (2.0, 1.0)
