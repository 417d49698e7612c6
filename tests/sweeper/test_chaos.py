"""Random kills of workers and drivers in one sweep: nothing is lost, nothing is there twice.

`python -m benchmarks.chaos` does this, and much more, as often as wanted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.arena import Arena, SweepFolder
from benchmarks.chaos.checks import COUNTS, Tally, examine
from benchmarks.chaos.kinds import Order, mixed
from benchmarks.chaos.trainable import PLACE, straight

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    made = Arena(tmp_path)
    yield made
    made.close()


@pytest.mark.ray
@pytest.mark.slow
def test_whoever_is_killed_every_trial_ends_and_every_series_is_exact(
    cluster: Any, arena: Arena, settles: Any
) -> None:
    import ray

    order = Order(3, time.monotonic() + 1200, random.Random(7), print, arena)
    tally = mixed(order, trials=3, steps=40, address=cluster.address)
    assert tally.notes == []
    assert tally.strikes == 3
    assert tally.figures["struck"] == {"worker": 1, "driver": 1, "trial driver": 1}
    # Two metrics of three trials, in the journal and in MLflow. A slow machine may need a second sweep.
    assert tally.sweeps >= 1
    assert tally.points == 2 * 2 * 3 * 40 * tally.sweeps
    assert settles(lambda: ray.available_resources().get("CPU", 0) == 2.0)


def test_what_is_looked_for_is_found(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    """Series with every fault that there may be: a check that cannot fail checks nothing."""
    from benchmarks.chaos import checks

    sweep = SweepFolder(arena.folder / "damaged", steps=4, seeds=(0, 1, 2))
    known = [metrics[PLACE] for metrics in straight(0, 4)]
    start = {"event": "trial_start", "trial": 0, "config": {"seed": 0}}
    reports = [
        {"event": "report", "trial": 0, "step": step, "metrics": {PLACE: value}}
        for step, value in ((1, known[0]), (1, known[0]), (2, 0.5), (4, known[3]))
    ]
    ends = [{"event": "trial_end", "trial": 0, "status": status} for status in ("failed", "completed")]
    again = {"event": "trial_start", "trial": 1, "config": {"seed": 1}}
    twice = {"event": "trial_start", "trial": 2, "config": {"seed": 1}}
    events = [start, *reports, *ends, again, twice]
    monkeypatch.setattr(SweepFolder, "events", lambda _self: events)
    monkeypatch.setattr(checks, "_study", lambda *_: None)
    tally = Tally("damaged")
    examine(sweep, tally, mlflow=False)
    # Lost: seed 1 never ended, seed 2 never ran. Missing: step 3.
    assert dict(tally.counts) == {"twice": 2, "lost": 2, "duplicates": 1, "gaps": 1, "wrong": 1}
    assert set(tally.counts) < set(COUNTS)
    assert not tally.clean
