from __future__ import annotations

import numpy as np
import pytest

from tools.pusht_expert.physics import LeanSimulator, state_of
from trainables.pusht.environment import PushTSimulator
from trainables.pusht.geometry import (
    CENTRE,
    GOAL,
    GOAL_CENTRE,
    KEYPOINTS,
    OUTLINE,
    SUCCESS_COVERAGE,
    clearance,
    compose,
    coverage,
    pose_error,
    signed_distance,
    to_body,
    to_world,
)


def apart(seed: int) -> PushTSimulator:
    """A start where the agent does not touch the block and the block does not touch a wall."""
    rng = np.random.default_rng(seed)
    simulator = PushTSimulator()
    simulator.reset_to(np.array([60.0, 60.0, *rng.uniform(230, 300, 2), rng.uniform(-3, 3)]))
    return simulator


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_lean_simulator_follows_the_environment_through_contacts(seed: int) -> None:
    environment, lean = apart(seed), LeanSimulator()
    lean.reset(state_of(environment.agent, environment.block))
    start = environment.block_pose()
    rng = np.random.default_rng(seed)
    for _ in range(200):
        centre = environment.block.local_to_world((0.0, 45.0))
        # Away from the walls: with three bodies in contact the solver's order decides, which is not copied.
        target = np.clip(np.array(centre) + rng.uniform(-60, 60, 2), 180, 330)
        environment.advance(target)
        lean.step((float(target[0]), float(target[1])))
        np.testing.assert_allclose(lean.block_pose(), environment.block_pose(), atol=1e-6)
        np.testing.assert_allclose(lean.agent_position(), environment.agent_position(), atol=1e-6)
    assert np.abs(environment.block_pose() - start).max() > 20


def test_lean_simulator_starts_afresh_after_a_reset() -> None:
    environment = apart(0)
    state = state_of(environment.agent, environment.block)
    used, fresh = LeanSimulator(), LeanSimulator()
    used.reset(state)
    for _ in range(40):
        used.step((270.0, 270.0))
    for simulator in (used, fresh):
        simulator.reset(state)
        for _ in range(40):
            simulator.step((300.0, 280.0))
    np.testing.assert_allclose(used.block_pose(), fresh.block_pose(), atol=1e-9)


def test_keypoints_of_a_pose_are_those_of_the_environment() -> None:
    simulator = apart(3)
    expected = simulator.keypoints()
    np.testing.assert_allclose(to_world(simulator.block_pose(), KEYPOINTS).flatten(), expected, atol=1e-9)


@pytest.mark.slow
def test_coverage_is_that_of_the_environment_and_success_a_small_error() -> None:
    simulator = PushTSimulator()
    simulator.reset(seed=0)
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(100):
        pose = GOAL + rng.normal(0, 1, 3) * [2.0, 2.0, 0.03] * rng.choice([0.4, 1.0, 5.0])
        simulator.place(np.array([20.0, 20.0]), pose)
        assert coverage(pose) == pytest.approx(simulator._get_coverage(), abs=1e-9)
        error = pose_error(pose)
        assert error == pytest.approx(
            np.sqrt(np.mean(np.sum((to_world(pose, KEYPOINTS) - to_world(GOAL, KEYPOINTS)) ** 2, axis=1)))
        )
        assert error >= 1.6 or coverage(pose) > SUCCESS_COVERAGE
        assert error <= 4.0 or coverage(pose) < SUCCESS_COVERAGE
        covered.append(coverage(pose) > SUCCESS_COVERAGE)
    assert 10 < sum(covered) < 90


def test_frames_are_inverse_to_each_other_and_displacements_add_up() -> None:
    rng = np.random.default_rng(0)
    pose, step = np.array([120.0, 333.0, 2.2]), np.array([5.0, -7.0, 0.4])
    points = rng.uniform(-100, 100, (6, 2))
    np.testing.assert_allclose(to_body(pose, to_world(pose, points)), points, atol=1e-9)
    np.testing.assert_allclose(to_world(compose(pose, step), points), to_world(pose, to_world(step, points)))
    np.testing.assert_allclose(to_world(GOAL, CENTRE), GOAL_CENTRE)


def test_distance_from_the_block_is_that_from_its_outline() -> None:
    import shapely

    block = shapely.Polygon(OUTLINE)
    points = np.random.default_rng(0).uniform(-120, 180, (300, 2))
    outside = ~shapely.contains_xy(block, points[:, 0], points[:, 1])
    expected = np.array([block.distance(shapely.Point(point)) for point in points])
    np.testing.assert_allclose(signed_distance(points)[outside], expected[outside], atol=1e-9)
    assert (signed_distance(points)[~outside] < 0).all()
    assert outside.sum() > 100
    assert (~outside).sum() > 10


def test_direction_away_from_the_block_is_the_slope_of_the_distance() -> None:
    for point in np.random.default_rng(1).uniform([-90, -30], [90, 150], (300, 2)):
        distance, x, y = clearance(*point)
        if distance > 0:
            assert distance == pytest.approx(float(signed_distance(point)))
        assert np.hypot(x, y) == pytest.approx(1.0)
        if distance > 1:
            further = point + 1e-4 * np.array([x, y])
            assert float(signed_distance(further)) - distance == pytest.approx(1e-4, rel=1e-3)
        elif distance < 0:
            assert float(signed_distance(point + (0.01 - distance) * np.array([x, y]))) > 0
