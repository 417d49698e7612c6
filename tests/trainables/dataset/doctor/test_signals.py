"""What states and actions show: each fault is found in a set that was made to have it, and named."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from demonstrations import record

from trainables.interface import DatasetExaminer, Finding
from trainables.registry import load

STATE, ACTION = "observation.state", "action"
LENGTHS = (40,) * 12
Change = Callable[[int, dict[str, np.ndarray]], Any]


@pytest.fixture
def findings(tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """Record a set with a fault, and examine it; without what a small set has."""

    def found(change: Change | None, lengths=LENGTHS, **options: Any) -> dict[str, Finding]:
        root = record(tmp_path / "set", lengths, camera=False, change=change, **options)
        examiner = load("diffusion_policy")
        assert isinstance(examiner, DatasetExaminer)
        all_found = examiner.examine({"dataset.root": str(root)}, Path("unused")).findings
        return {one.check: one for one in all_found if one.check != "few_episodes"}

    return found


# -- frozen actions


def freeze(first: int, last: int, episodes: set[int], *names: str) -> Change:
    def change(episode: int, columns: dict[str, np.ndarray]) -> None:
        if episode in episodes:
            for name in names:
                columns[name][first : last + 1] = columns[name][first]

    return change


@pytest.mark.slow
def test_actions_that_freeze_while_the_robot_moves_on_are_found(findings):
    found = findings(freeze(13, 25, {2, 7}, ACTION))["frozen_actions"]
    assert found.episodes == (2, 7)
    assert "in the middle of episodes [2, 7] while the robot moves on (2 times)" in found.problem
    assert re.search(
        r"the longest stretch begins at episode [27], frame 1[23] and lasts 1.[23] s", found.problem
    )
    assert "were not recorded" in found.why
    assert "dataset.exclude_episodes: [2, 7]" in found.remedy


def test_a_gripper_that_closes_hides_no_frozen_arm(findings):
    def arm(episode, columns):
        if episode == 2:
            columns[ACTION][13:26, :3] = columns[ACTION][13, :3]
            columns[ACTION][13:26, 3] = np.linspace(0, 1, 13)

    assert findings(arm)["frozen_actions"].episodes == (2,)


@pytest.mark.slow
def test_a_gripper_that_closes_while_the_arm_waits_is_no_pause(findings):
    def wait(episode, columns):
        if episode == 2:
            for name in (STATE, ACTION):
                columns[name][8:32, :3] = columns[name][8, :3]
                columns[name][8:32, 3] = np.linspace(0, 1, 24)

    assert "frozen_actions" not in findings(wait)


@pytest.mark.slow
def test_a_pause_in_the_middle_is_found_from_two_seconds_on(findings):
    found = findings(freeze(10, 31, {4}, ACTION, STATE))["frozen_actions"]
    assert "and so does the robot" in found.problem


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        pytest.param(10, 18, (ACTION,), id="less than a second"),
        pytest.param(10, 25, (ACTION, STATE), id="a pause of less than two seconds"),
        pytest.param(0, 12, (ACTION,), id="at the start"),
        pytest.param(25, 39, (ACTION,), id="at the end"),
    ],
)
def test_short_and_outer_stretches_are_no_frozen_actions(findings, first, last, names):
    assert "frozen_actions" not in findings(freeze(first, last, {4}, *names))


@pytest.mark.slow
def test_a_steady_speed_is_no_frozen_action(findings):
    def speeds(_, columns):
        columns[ACTION][:] = np.diff(columns[STATE], axis=0, append=columns[STATE][-1:])
        columns[ACTION][12:24] = 0.02

    assert "frozen_actions" not in findings(speeds)


# -- dimensions that do not move


@pytest.mark.slow
def test_a_dimension_that_stands_still_in_most_episodes_is_found(findings):
    def stuck(episode, columns):
        if episode >= 4:
            for name in (STATE, ACTION):
                columns[name][:, 2] = 0.1 * episode

    found = findings(stuck)["stuck_dimension"]
    assert "dimension 2 (yaw) does not change within most episodes: in 8 of 12" in found.problem
    assert found.episodes == tuple(range(4, 12))
    assert found.severity == "warning"


@pytest.mark.slow
def test_a_dimension_that_stands_still_in_a_few_episodes_is_none(findings):
    def stuck(episode, columns):
        if episode >= 8:
            for name in (STATE, ACTION):
                columns[name][:, 2] = 0.1 * episode

    assert "stuck_dimension" not in findings(stuck)


# -- limits


@pytest.mark.slow
@pytest.mark.parametrize(("low", "high"), [(-9, 0.35), (-0.35, 9)])
def test_values_that_are_cut_off_at_a_limit_are_found(findings, low, high):
    def cut(_, columns):
        columns[STATE][:, 1] = columns[STATE][:, 1].clip(low, high)

    found = findings(cut)["pinned_at_limit"]
    assert (found.where, found.severity) == (STATE, "warning")
    assert "dimension 1 (y) is cut off at a limit (" in found.problem
    assert f"{max(low, -0.35) if low > -1 else high:.6g} in " in found.problem


@pytest.mark.slow
def test_glitches_beyond_a_limit_do_not_hide_it(findings):
    def cut(episode, columns):
        columns[STATE][:, 1] = columns[STATE][:, 1].clip(-9, 0.35)
        if episode == 3:
            columns[STATE][20, 1] = 0.5

    assert "pinned_at_limit" in findings(cut)


@pytest.mark.slow
def test_a_gripper_is_at_its_limits_by_its_nature(findings):
    assert findings(None, (40,) * 20) == {}


@pytest.mark.slow
def test_a_dimension_without_a_name_may_be_a_gripper(findings):
    from trainables.dataset.format.schema import DatasetFeature

    def cut(_, columns):
        columns[STATE][:, 1] = columns[STATE][:, 1].clip(-9, 0.35)

    found = findings(cut, extra={STATE: DatasetFeature("float32", (4,), None)})["pinned_at_limit"]
    assert found.severity == "note"
    assert "Ordinary for a gripper" in found.why


# -- action and state


@pytest.mark.slow
def test_a_joint_whose_state_does_not_follow_is_named(findings):
    noise = np.random.default_rng(3)

    def other(_, columns):
        columns[STATE][:, 1] = np.cumsum(noise.normal(0, 0.1, 40))

    found = findings(other)["action_not_followed"]
    assert "does not follow dimension 1 (y): the correlation of dimension 1 is" in found.problem


@pytest.mark.slow
def test_one_spike_does_not_hide_that_a_joint_follows(findings):
    def spike(episode, columns):
        if episode == 5:
            columns[ACTION][11, 0] = 400

    assert set(findings(spike)) == {"outliers", "jumps"}


@pytest.mark.slow
def test_if_no_joint_follows_they_may_be_of_different_kinds(findings):
    noise = np.random.default_rng(3)

    def other(_, columns):
        columns[STATE][:] = np.cumsum(noise.normal(0, 0.1, (40, 4)), axis=0)

    found = findings(other)["action_not_followed"]
    assert found.severity == "note"
    assert "No joint follows" in found.why


@pytest.mark.slow
def test_joints_in_another_order_are_named(findings):
    def swapped(_, columns):
        columns[STATE][:, :2] = columns[STATE][:, 1::-1].copy()

    found = findings(swapped, (40,) * 20)["action_not_followed"]
    assert "dimensions 0 (x), 1 (y)" in found.problem
    assert "it is dimension 1 of observation.state that follows it" in found.problem


@pytest.mark.slow
def test_a_joint_with_the_opposite_sign_is_named(findings):
    def mirrored(_, columns):
        columns[STATE][:, 0] *= -1

    found = findings(mirrored)["action_not_followed"]
    assert "opposite directions" in found.problem


@pytest.mark.slow
def test_speeds_and_steps_are_not_expected_to_be_followed(findings):
    def steps(_, columns):
        columns[ACTION][:, :3] = np.diff(columns[STATE], axis=0, append=columns[STATE][-1:])[:, :3]

    assert not {"action_not_followed", "action_lag", "units_differ"} & set(findings(steps))


def delayed(frames: int, dimensions: slice) -> Change:
    """The state of some dimensions follows so many frames later than it did."""

    def change(_: int, columns: dict[str, np.ndarray]) -> None:
        values = columns[STATE][:, dimensions]
        shift = abs(frames)
        moved = (
            np.concatenate([np.repeat(values[:1], shift, axis=0), values[:-shift]])
            if frames > 0
            else np.concatenate([values[shift:], np.repeat(values[-1:], shift, axis=0)])
        )
        columns[STATE][:, dimensions] = moved

    return change


@pytest.mark.slow
def test_a_state_that_follows_late_is_found_with_its_delay(findings):
    found = findings(delayed(6, slice(None)), (60,) * 12)["action_lag"]
    assert "7 frames (700 ms) after dimension 0" in found.problem
    assert "overshoots" in found.why


@pytest.mark.slow
def test_one_joint_that_is_later_than_the_others_is_found(findings):
    found = findings(delayed(6, slice(1, 2)), (60,) * 12)["action_lag"]
    assert (
        "moves 7 frames (700 ms) after dimension 1 of the action; the others usually 1 frame after"
        in found.problem
    )


@pytest.mark.slow
def test_actions_that_are_behind_the_state_are_found(findings):
    found = findings(delayed(-4, slice(None)), (60,) * 12)["action_lag"]
    assert "3 frames (300 ms) before dimension 0" in found.problem
    assert "late" in found.why


def test_a_delay_is_not_taken_for_frozen_actions(findings):
    def change(episode, columns):
        freeze(13, 28, {2, 7}, ACTION, STATE)(episode, columns)
        delayed(8, slice(None))(episode, columns)

    found = findings(change, (60,) * 12)
    assert "action_lag" in found
    assert "frozen_actions" not in found


@pytest.mark.slow
def test_a_usual_delay_is_no_finding(findings):
    assert findings(delayed(1, slice(None)), (60,) * 20) == {}


# -- units


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "factor", "words"),
    [
        (ACTION, 180 / np.pi, "degrees and radians, with the action in the former"),
        (STATE, 180 / np.pi, "degrees and radians, with the state in the former"),
        (ACTION, 1000, "millimetres and metres"),
        (STATE, 4096 / (2 * np.pi), "ticks of a motor and radians"),
        (ACTION, 2.3, "in another scale"),
    ],
)
def test_action_and_state_in_different_units_are_found(findings, name, factor, words):
    def convert(_, columns):
        columns[name][:, :3] *= factor

    found = findings(convert)["units_differ"]
    assert words in found.problem
    assert "dimensions 0 (x), 1 (y), 2 (yaw)" in found.problem


@pytest.mark.slow
def test_normalised_motors_beside_degrees_are_named(findings):
    def convert(_, columns):
        columns[STATE][:, :3] *= 99
        columns[ACTION][:, :3] *= 160

    found = findings(convert)["units_differ"]
    assert "LeRobot's normalised motors (-100 to 100) in the state, and degrees in the other" in found.problem


@pytest.mark.slow
def test_one_dimension_without_a_name_in_another_scale_may_be_a_gripper(findings):
    def convert(_, columns):
        columns[ACTION][:, 1] *= 1.7

    assert "units_differ" not in findings(convert)


@pytest.mark.slow
@pytest.mark.parametrize("radians", [{3, 8}, set(range(6)), set(range(2, 12))])
def test_episodes_in_radians_among_episodes_in_degrees_are_found(findings, radians):
    def convert(episode, columns):
        if episode not in radians:
            for name in (STATE, ACTION):
                columns[name] *= 180 / np.pi

    found = findings(convert)["units_mixed"]
    fewer = radians if len(radians) <= 6 else set(range(12)) - radians
    assert found.episodes == tuple(sorted(fewer))
    assert "radians and degrees in one dataset" in found.problem


# -- first and last


@pytest.mark.slow
def test_a_shift_between_the_first_and_the_last_episodes_is_found_with_its_place(findings):
    def moved(episode, columns):
        if episode >= 25:
            for name in (STATE, ACTION):
                columns[name][:, 0] += 1.5

    found = findings(moved, (20,) * 40)["shift"]
    assert "dimension 0 (x): the median of the episodes shifts from" in found.problem
    assert "between the first episodes (0 to 9) and the last (30 to 39), from episode 25 on" in found.problem


@pytest.mark.slow
def test_other_starts_alone_are_a_shift(findings):
    def home(episode, columns):
        for name in (STATE, ACTION):
            columns[name][0, :2] = 0.3 if episode < 10 else 0.7

    found = findings(home, (20,) * 20)["shift"]
    assert "the start of the episodes shifts from 0.3 to 0.7" in found.problem


@pytest.mark.slow
def test_tasks_that_were_recorded_one_after_the_other_are_no_shift(findings):
    def moved(episode, columns):
        if episode >= 20:
            for name in (STATE, ACTION):
                columns[name][:, 0] += 1.5

    tasks = ("Push.",) * 20 + ("Pull.",) * 20
    assert "shift" not in findings(moved, (20,) * 40, tasks=tasks)


@pytest.mark.slow
def test_a_sound_set_has_nothing_of_all_this(findings):
    assert findings(None, (20, 25, 18, 30) * 25) == {}
