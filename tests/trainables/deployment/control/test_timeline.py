"""Which action is executed at a tick. The action of a chunk is the tick that it is meant for."""

from __future__ import annotations

import numpy as np
import pytest

from trainables.deployment.control.settings import ControlSettings
from trainables.deployment.control.timeline import Timeline, soft_mask


def chunk(tick: float, size: int = 12) -> np.ndarray:
    return (tick + np.arange(size, dtype=np.float32))[:, None]


class Played(Timeline):
    """A timeline with what it executed."""

    executed: list[float]


def played(settings: ControlSettings, ticks: int, delay: int, steps: int = 8, size: int = 12) -> Played:
    """Play for some ticks; the first chunk is there at once, the others after ``delay`` ticks."""
    timeline = Played(settings, steps)
    timeline.executed = []
    arrives: tuple[int, float] | None = None
    for tick in range(ticks):
        if arrives is not None and arrives[0] == tick:
            timeline.deliver(chunk(arrives[1], size))
            arrives = None
        if timeline.wants():
            wait = delay if timeline.has_started else 0
            timeline.request(wait)
            if wait == 0:
                timeline.deliver(chunk(tick, size))
            else:
                arrives = (tick + wait, tick)
        timeline.executed.append(float(timeline.advance()[0]))
    return timeline


@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_without_delay_every_mode_executes_the_action_of_the_tick(mode):
    timeline = played(ControlSettings(mode), 40, delay=0)
    assert timeline.executed == pytest.approx(list(range(40)))
    assert (timeline.late_ticks, timeline.dropped) == (0, 0)


def test_a_robot_that_waits_repeats_its_action_and_then_executes_the_whole_chunk():
    timeline = played(ControlSettings("sync"), 20, delay=3)
    assert timeline.executed == [*range(8), 7, 7, 7, *range(8, 16), 15]
    assert timeline.late_ticks == 4


@pytest.mark.parametrize("replan", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["async", "rtc", "ensemble"])
def test_ahead_of_time_no_tick_is_lost(mode, replan):
    timeline = played(ControlSettings(mode, replan=replan), 60, delay=3)
    assert timeline.executed == pytest.approx(list(range(60)))
    assert timeline.late_ticks == 0
    assert timeline.dropped == 3 * (timeline.predictions - 1) > 0


def test_the_share_that_is_left_decides_how_often_is_predicted():
    counts = [played(ControlSettings("async", replan=share), 200, 1).predictions for share in (0.0, 0.5, 1.0)]
    # Eight actions of each, or four; or one prediction after the other, each of which takes one tick.
    assert counts == [pytest.approx(200 / 8, abs=2), pytest.approx(200 / 4, abs=2), pytest.approx(200, abs=2)]


def test_a_chunk_that_ends_too_soon_is_late_and_said():
    timeline = played(ControlSettings("async", replan=0.0), 30, delay=9, steps=4, size=6)
    # 0 to 5 are there; the request came at tick 4, and its chunk at tick 13 has nothing that is not past.
    assert timeline.executed[:14] == [0, 1, 2, 3, 4, 5, *[5] * 7, 6]
    assert timeline.late_ticks > 0


def test_the_action_that_holds_is_used_if_asked_for():
    timeline = Timeline(ControlSettings("async", late="hold"), 2)
    timeline.request()
    timeline.deliver(chunk(0, 2))
    executed = [float(timeline.advance(np.array([-1.0]))[0]) for _ in range(4)]
    assert executed == [0, 1, -1, -1]


def test_what_is_left_is_stretched_if_asked_for():
    timeline = Timeline(ControlSettings("async", replan=0.0, late="slow"), 2)
    timeline.request()
    timeline.deliver(chunk(0, 6))
    first = [float(timeline.advance()[0]) for _ in range(2)]
    assert timeline.wants()
    timeline.request(8)  # four actions are left for eight ticks
    rest = [float(timeline.advance()[0]) for _ in range(8)]
    assert first == [0, 1]
    assert rest == pytest.approx([2, 2.5, 3, 3.5, 4, 4.5, 5, 5])
    timeline.deliver(chunk(2, 6))
    # The robot has made four of the eight steps: their actions are dropped, not eight.
    assert float(timeline.advance()[0]) == 6
    assert timeline.late_ticks == 8


def test_older_chunks_have_more_weight_in_an_ensemble():
    timeline = Timeline(ControlSettings("ensemble", decay=0.5), 4)
    for start in (0.0, 10.0, 40.0):
        timeline.request()
        timeline.deliver(chunk(start, 4))
        action = float(timeline.advance()[0])
    planned, weights = np.array([2.0, 11.0, 40.0]), np.exp(-0.5 * np.arange(3))
    assert action == pytest.approx(planned @ weights / weights.sum())


def test_the_next_chunk_is_bound_to_what_will_have_been_executed():
    timeline = Timeline(ControlSettings("rtc", replan=0.5), 4)
    assert timeline.request().known is None
    timeline.deliver(chunk(0, 6))
    for _ in range(2):
        timeline.advance()
    request = timeline.request(2)
    assert request.known is not None
    assert request.kept is not None
    assert request.known[:, 0].tolist() == [2, 3, 4, 5, 5, 5]
    share = np.array([2 / 3, 1 / 3])
    soft = share * np.expm1(share) / np.expm1(1)
    assert request.kept == pytest.approx([1, 1, *soft, 0, 0])


def test_the_mask_never_binds_what_was_not_planned():
    for delay in range(8):
        for planned in range(8):
            mask = soft_mask(8, delay, planned)
            assert ((mask >= 0) & (mask <= 1)).all()
            assert (np.diff(mask) <= 0).all()
            assert (mask[planned:] == 0).all()
            assert (mask[: min(delay, planned)] == 1).all()


def test_the_sample_that_continues_the_last_chunk_is_chosen():
    timeline = Timeline(ControlSettings("async", samples=3), 4)
    timeline.request()
    samples = np.stack([chunk(9, 6), chunk(2, 6), chunk(-5, 6)])
    assert timeline.choose(samples)[0, 0] == 9  # nothing to compare with
    timeline.deliver(chunk(0, 6))
    for _ in range(2):
        timeline.advance()
    timeline.request(1)
    timeline.advance()
    assert timeline.choose(samples)[0, 0] == 2


def test_nothing_is_executed_before_the_first_chunk():
    with pytest.raises(RuntimeError, match="no chunk has arrived"):
        Timeline(ControlSettings(), 4).advance()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mode": "asynchronous"}, "use one of sync, async, ensemble, rtc"),
        ({"late": "stop"}, "use one of repeat, hold, slow"),
        ({"replan": 1.5}, "a share from 0 to 1"),
        ({"decay": -1}, "0 or more"),
        ({"samples": 0}, "1 or more"),
        ({"mode": "sync", "late": "slow"}, "predicted ahead"),
    ],
)
def test_settings_that_are_not_possible_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        ControlSettings(**given)
