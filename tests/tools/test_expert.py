from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tools.pusht_expert.generate import main, reset_state, solve
from tools.pusht_expert.physics import LeanSimulator, State
from tools.pusht_expert.planner import Style, target_profile
from tools.pusht_expert.pushes import CLEARANCE_PX, push_library
from tools.pusht_expert.routes import exit_point, route, route_lengths
from trainables.pusht.demonstrations import Demonstrations
from trainables.pusht.environment import PushTSimulator
from trainables.pusht.geometry import compose, signed_distance, to_world

MIDDLE = np.array([256.0, 256.0, 1.0])


@pytest.mark.slow
def test_library_says_what_a_push_does_wherever_the_block_lies() -> None:
    library = push_library()
    simulator = LeanSimulator()
    rng = np.random.default_rng(0)
    still = np.zeros(3)
    errors = []
    for primitive in rng.choice(len(library.lengths), 12, replace=False):
        rows = np.flatnonzero(np.isfinite(library.lengths[primitive]))
        row = int(rows[min(8, len(rows) - 1)])
        push = library.push(int(primitive), row)
        way = to_world(MIDDLE, push.polyline())
        simulator.reset(State(way[0], still[:2], MIDDLE, still))
        for place in way[1:]:
            for _ in range(6):
                simulator.step((float(place[0]), float(place[1])))
        expected = compose(MIDDLE, library.displacements[primitive, row])
        errors.append(np.abs(simulator.block_pose() - expected)[:2].max())
    assert np.median(errors) < 1.0


@pytest.mark.slow
def test_pose_errors_of_the_library_are_those_of_the_outcomes() -> None:
    from trainables.pusht.geometry import pose_error

    library = push_library()
    errors = library.pose_errors(MIDDLE)
    for primitive, row in ((0, 3), (100, 20), (311, 30)):
        outcome = compose(MIDDLE, library.displacements[primitive, row])
        assert errors[primitive, row] == pytest.approx(pose_error(outcome), abs=1e-6)


@pytest.mark.slow
def test_ways_keep_clear_of_the_block_and_their_lengths_are_known() -> None:
    standoffs = push_library().standoffs
    around = 0
    for agent in np.random.default_rng(0).uniform(-150, 150, (20, 2)):
        lengths = route_lengths(MIDDLE, agent, standoffs)
        for goal in range(0, len(standoffs), 7):
            way = route(MIDDLE, agent, standoffs[goal])
            assert way is not None
            np.testing.assert_array_equal(way[[0, -1]], [agent, standoffs[goal]])
            assert np.hypot(*np.diff(way, axis=0).T).sum() == pytest.approx(lengths[goal])
            for start, end in pairwise(way[1:]):
                between = start + np.linspace(0, 1, 40)[:, None] * (end - start)
                assert signed_distance(between).min() > CLEARANCE_PX - 0.3
            around += len(way) > 3
    assert around > 20


def test_agent_that_touches_the_block_backs_off_first() -> None:
    for point in ([0.0, -15.0], [75.0, 15.0], [30.0, 60.0], [0.0, 15.0], [1.0, 29.0], [-3.0, 80.0]):
        assert signed_distance(exit_point(np.array(point))) >= CLEARANCE_PX


def test_target_moves_within_its_speeds_and_ends_at_the_end() -> None:
    style = Style(free_px=18.0, push_px=9.0, acceleration_px=5.0)
    polyline = np.array([[50.0, 50.0], [250.0, 50.0], [250.0, 200.0], [300.0, 200.0]])
    targets = target_profile(polyline, 2, style)
    steps = np.hypot(*np.diff(np.concatenate([polyline[:1], targets]), axis=0).T)
    np.testing.assert_allclose(targets[-1], polyline[-1])
    assert steps.max() <= style.free_px + 1e-9
    assert steps.max() > 15
    assert np.abs(np.diff(steps)).max() <= 2 * style.acceleration_px
    pushing = targets[:, 1] > 199.9
    assert np.hypot(*np.diff(targets[pushing], axis=0).T).max() <= style.push_px + 1e-9


def test_reset_state_is_what_gym_pusht_draws() -> None:
    simulator = PushTSimulator()
    for seed in range(20):
        simulator.reset(seed=seed)
        expected = np.concatenate([simulator.agent_position(), simulator.block_pose()])
        simulator.reset_to(reset_state(seed))
        found = np.concatenate([simulator.agent_position(), simulator.block_pose()])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_expert_solves_fresh_resets_and_is_repeatable() -> None:
    episodes = [solve(seed) for seed in range(700_000, 700_006)]
    assert all(episode.success for episode in episodes)
    assert np.median([len(episode.actions) for episode in episodes]) < 120
    again = solve(700_000)
    np.testing.assert_array_equal(again.actions, episodes[0].actions)
    np.testing.assert_array_equal(again.blocks, episodes[0].blocks)


@pytest.mark.slow
def test_table_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    tables = []
    for processes in ("1", "2"):
        out = tmp_path / f"{processes}.npz"
        main(["--episodes", "2", "--seed", "40", "--processes", processes, "--out", str(out)])
        with np.load(out) as arrays:
            tables.append(Demonstrations(**{name: arrays[name] for name in arrays.files}))
    assert len(tables[0]) == 2
    np.testing.assert_array_equal(tables[0].actions, tables[1].actions)
    np.testing.assert_array_equal(tables[0].seeds, tables[1].seeds)
