"""The driver's work in a turn of Tune's loop depends on the trials that run, not on all before them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.slow  # importing Ray Tune takes seconds


class Trial:
    """A trial of Tune's that remembers how often it was asked whether it is finished."""

    def __init__(self, slot: str) -> None:
        actor = SimpleNamespace(_actor_id=SimpleNamespace(hex=lambda: slot))
        self.temporary_state: Any = SimpleNamespace(ray_actor=actor)
        self.finished = False
        self.asked = 0

    def is_finished(self) -> bool:
        self.asked += 1
        return self.finished


def test_finished_trials_are_asked_once_and_idle_slots_are_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeper.driver import callbacks

    freed: list[str] = []
    monkeypatch.setattr(callbacks, "free_groups", lambda _group, slot: freed.append(slot))
    slots = callbacks.FreeSlots(tmp_path, "sweep", lambda: False)
    trials = [Trial("long"), Trial("short")]
    for _ in range(200):
        slots.on_step_end(trials=trials)
        trials[-1].finished = True
        trials.append(Trial("short"))  # Tune only adds to its list
    slots.on_step_end(trials=trials)
    assert freed == []
    assert trials[0].asked > 200
    assert {trial.asked for trial in trials if trial.finished} == {2}
    # A slot without a trial loses its workers, and one with a trial keeps them.
    trials[-1].finished = True
    monkeypatch.setattr(callbacks, "IDLE_S", -1.0)
    trials[0].temporary_state.ray_actor = None
    slots.on_step_end(trials=trials)
    assert set(freed) == {"long", "short"}


def test_nothing_that_grows_with_a_trial_is_kept_by_tune(tmp_path: Path) -> None:
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import FIFOScheduler

    from sweeper.driver.callbacks import RecorderCallback

    recorder: Any = SimpleNamespace(end_trial=lambda *_: None, sweep=SimpleNamespace(folder=tmp_path))
    callback = RecorderCallback(recorder, FIFOScheduler())
    (tmp_path / "trials" / "7").mkdir(parents=True)
    for end in (callback.on_trial_complete, callback.on_trial_error):
        config = {"trial": 7, "config": {f"field.{number}": number for number in range(100)}}
        trial = Trial("small", stub=True, config=config, evaluated_params=dict(config), experiment_tag="1")
        trial.storage = SimpleNamespace(trial_driver_staging_path=str(tmp_path))
        reported = {f"train/metric_{number}": 1.0 for number in range(50)}
        trial.update_last_result({**reported, "config": config, "training_iteration": 1})
        assert len(trial.metric_analysis) >= 50
        end(trial=trial)
        trial.storage = None
        assert trial.config == {"trial": 7}
        assert trial.last_result.keys() == {"done", "trial_id"}
        kept = trial.get_json_state()
        assert "metric_" not in kept
        assert "field." not in kept


def test_trials_that_ended_share_what_describes_equal_resources(tmp_path: Path) -> None:
    from ray.tune import PlacementGroupFactory
    from ray.tune.experiment import Trial
    from ray.tune.schedulers import FIFOScheduler

    from sweeper.driver.callbacks import RecorderCallback

    recorder: Any = SimpleNamespace(end_trial=lambda *_: None, sweep=SimpleNamespace(folder=tmp_path))
    callback = RecorderCallback(recorder, FIFOScheduler())
    trials = []
    for number in range(20):
        trial = Trial("small", stub=True, config={"trial": number, "config": {}})
        trial.placement_group_factory = PlacementGroupFactory([{"CPU": 1.0 + (number == 7)}])
        callback.on_trial_complete(trial=trial)
        trials.append(trial)
    assert len({id(trial.placement_group_factory) for trial in trials}) == 2
    assert trials[7].placement_group_factory.bundles == [{"CPU": 2.0}]
    assert trials[8].placement_group_factory.bundles == [{"CPU": 1.0}]
