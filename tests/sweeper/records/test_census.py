"""How a sweep counts its trials: as often as it is asked, and each one that is over only once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from played_sweeps import Sweep

from sweeper.records.events import EventKind
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState, update_sweep
from sweeper.records.trial_state import TrialState

LOOKS: list[int] = []


class Watched(TrialState):
    """Remembers each look at its status."""

    def __getattribute__(self, name: str) -> Any:
        if name == "status":
            LOOKS.append(object.__getattribute__(self, "number"))
        return object.__getattribute__(self, name)


def watched(*statuses: TrialStatus) -> SweepState:
    sweep = SweepState(Path())
    sweep.trials = {n: Watched(n, {}, {}, 0.0, status) for n, status in enumerate(statuses)}
    return sweep


def test_trials_that_are_over_are_looked_at_once() -> None:
    ended = (TrialStatus.COMPLETED, TrialStatus.FAILED, TrialStatus.STOPPED_EARLY) * 100
    sweep = watched(*ended, TrialStatus.RUNNING, TrialStatus.INTERRUPTED)
    assert sweep.ended_trials == 300
    LOOKS.clear()
    assert sweep.ended_trials == 300
    assert sweep.count(TrialStatus.FAILED) == 100
    assert [trial.number for trial in sweep.running()] == [300]
    sweep.trials_s(0.0)
    assert set(LOOKS) == {300, 301}
    sweep.trials[302] = Watched(302, {}, {}, 0.0, TrialStatus.FAILED)
    sweep.trials[300].status = TrialStatus.COMPLETED
    assert (sweep.ended_trials, sweep.count(TrialStatus.FAILED), sweep.running()) == (302, 101, [])


def test_the_counts_are_those_of_the_trials_after_every_event(tmp_path: Path) -> None:
    played = Sweep(tmp_path)
    played.start()
    draw = random.Random(3)
    statuses = ("completed", "stopped_early", "failed", "interrupted", "")
    for number in range(40):
        played.trial(number, steps=1, status=draw.choice(statuses))
        if number % 10 == 9:
            played.start()  # another driver: what ran is interrupted, and starts again
            for again in draw.sample(range(number), 3):
                played.journal.append(EventKind.TRIAL_START, trial=again, values={}, config={})
    events = read_all(played)
    sweep = SweepState(tmp_path)
    for event in events:
        sweep.apply(event)
        trials = sweep.trials.values()
        for status in TrialStatus:
            assert sweep.count(status) == sum(trial.status == status for trial in trials), event
        assert sweep.running() == [trial for trial in trials if trial.status == "running"]
        now = event["time"] + 5.0
        assert abs(sweep.trials_s(now) - sum(trial.duration_s(now) for trial in trials)) < 1e-6
    whole = SweepState(tmp_path)
    update_sweep(whole)
    assert whole.ended_trials == sweep.ended_trials


def read_all(played: Sweep) -> list[Any]:
    from sweeper.records.journal import read_journal

    return read_journal(played.journal.path).events
