"""A sweep with a tracker beside MLflow, launched, killed and resumed by the real commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tracked_runs import TRACKERS, be_offline, values

from benchmarks.chaos.arena import Arena, eventually
from benchmarks.chaos.trainable import LOSS, PLACE, release, straight
from sweeper.tracking.also.feed import read_position
from sweeper.tracking.also.feeder import missing_events

STEPS, TRIALS, HELD_AT = 40, 2, 25


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Arena]:
    be_offline(tmp_path, monkeypatch)
    made = Arena()
    yield made
    made.close()


@pytest.mark.ray
@pytest.mark.filterwarnings("default")  # of the trackers' own
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_has_every_report_of_a_sweep_once_whose_driver_was_killed(
    arena: Arena, tracker: str
) -> None:
    also = {"tracking": {"experiment": "walks", "also": [tracker]}}
    sweep = arena.sweep(trials=TRIALS, steps=STEPS, config={"hold_step": HELD_AT}, sections=also)
    driver = arena.drive(sweep)
    # The tracker has a part of both trials, and the rest is still to come.
    assert eventually(
        lambda: (
            not driver.alive
            or (
                len(sweep.running()) == TRIALS
                and read_position(sweep.path, tracker).get("events", 0) > STEPS // 2
            )
        )
    )
    assert driver.alive, driver.printed()
    driver.kill()
    release(sweep.path)
    assert not sweep.ended()
    again = arena.drive(sweep)
    assert again.ends_within(300), again.printed()
    assert again.process.returncode == 0, again.printed()
    assert eventually(lambda: missing_events(sweep.path, tracker) == 0, 60)
    for trial in range(TRIALS):
        events = [
            event for event in sweep.events() if event["event"] == "trial_start" and event["trial"] == trial
        ]
        seed = events[0]["config"]["seed"]
        for name in (PLACE, LOSS):
            walked = [(step, round(found[name], 5)) for step, found in enumerate(straight(seed, STEPS), 1)]
            assert values(tracker, sweep.path, trial, name) == walked
