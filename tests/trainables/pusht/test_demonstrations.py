from __future__ import annotations

import threading
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from trainables.dataset.open import open_dataset
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, FeatureType
from trainables.pusht import demonstrations as module
from trainables.pusht import ensure_dataset
from trainables.pusht.demonstrations import Demonstrations, DemonstrationsError, load_demonstrations
from trainables.pusht.environment import PushTSimulator
from trainables.pusht.geometry import SIZE_PX
from trainables.pusht.task import FPS, IMAGE, TASK


def replayed(episode: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Agents, blocks and rewards of an episode that is simulated again, and whether it ends in success."""
    table = load_demonstrations()
    simulator = PushTSimulator()
    simulator.reset_to(table.starts[episode])
    agents, blocks, rewards, solved = [], [], [], False
    for action in table.actions[table.rows(episode)]:
        assert not solved
        agents.append(simulator.agent_position())
        blocks.append(simulator.block_pose())
        reward, solved = simulator.advance(action)
        rewards.append(reward)
    return np.array(agents), np.array(blocks), np.array(rewards), solved


def check_replay(episode: int) -> None:
    table = load_demonstrations()
    rows = table.rows(episode)
    agents, blocks, rewards, solved = replayed(episode)
    assert solved
    np.testing.assert_allclose(agents, table.agents[rows], atol=1e-4)
    np.testing.assert_allclose(blocks, table.blocks[rows], atol=1e-2)
    np.testing.assert_allclose(rewards, table.rewards[rows], atol=1e-3)


def test_shipped_table_is_small_and_its_parts_fit_together() -> None:
    table = load_demonstrations()
    frames = int(table.lengths.sum())
    assert len(table) == 200
    assert table.seeds.shape == (200,)
    assert table.starts.shape == (200, 5)
    assert len(set(table.seeds.tolist())) == 200
    for name, width in (("agents", 2), ("blocks", 3), ("actions", 2)):
        column = getattr(table, name)
        assert column.shape == (frames, width)
        assert column.dtype == np.float32
        assert np.isfinite(column).all()
    assert (files("trainables.pusht") / "demonstrations.npz").stat().st_size < 1_000_000  # type: ignore[attr-defined]


def test_demonstrations_are_smooth_and_stay_on_the_table() -> None:
    table = load_demonstrations()
    assert table.actions.min() >= 0
    assert table.actions.max() <= SIZE_PX
    for episode in range(len(table)):
        rows = table.rows(episode)
        assert np.hypot(*np.diff(table.actions[rows], axis=0).T).max() < 25
        assert table.rewards[rows][-1] == 1.0
        assert np.hypot(*(table.actions[rows] - table.agents[rows]).T).max() < 60


def test_a_few_episodes_replay_to_the_same_states_and_to_success() -> None:
    for episode in (0, 57, 199):
        check_replay(episode)


@pytest.mark.slow
def test_every_episode_replays_to_the_same_states_and_to_success() -> None:
    for episode in range(len(load_demonstrations())):
        check_replay(episode)


def test_keypoints_are_those_that_the_environment_shows() -> None:
    table = load_demonstrations()
    simulator = PushTSimulator()
    simulator.reset(seed=0)
    rows = table.rows(3)
    for frame, keypoints in enumerate(table.keypoints(rows)):
        simulator.place(table.agents[rows][frame], table.blocks[rows][frame])
        np.testing.assert_allclose(keypoints, simulator.keypoints(), atol=1e-4)


@pytest.fixture
def first_three(monkeypatch: pytest.MonkeyPatch) -> Demonstrations:
    """A table of three short episodes in place of the shipped one: drawing all takes a minute."""
    table = load_demonstrations()
    stop = 12
    chosen = [table.rows(episode) for episode in range(3)]
    rows = np.concatenate([np.arange(each.stop - stop, each.stop) for each in chosen])
    small = Demonstrations(
        table.seeds[:3],
        table.starts[:3],
        np.full(3, stop),
        *(getattr(table, name)[rows] for name in ("agents", "blocks", "actions", "rewards")),
    )
    monkeypatch.setattr(module, "load_demonstrations", lambda: small)
    module._table_hash.cache_clear()
    yield small
    module._table_hash.cache_clear()


@pytest.mark.slow
def test_dataset_of_states_contains_the_whole_table(tmp_path: Path) -> None:
    table = load_demonstrations()
    messages: list[str] = []
    dataset = open_dataset(ensure_dataset(tmp_path, images=False, progress=messages.append))
    assert [episode.stop - episode.start for episode in dataset.episodes] == table.lengths.tolist()
    assert {episode.tasks for episode in dataset.episodes} == {(TASK,)}
    assert dataset.fps == FPS
    features = {feature.name: (feature.type, feature.shape) for feature in dataset.policy_features.all()}
    assert features == {
        STATE: (FeatureType.STATE, (2,)),
        ENVIRONMENT_STATE: (FeatureType.ENV, (16,)),
        ACTION: (FeatureType.ACTION, (2,)),
    }
    np.testing.assert_array_equal(dataset.column(STATE), table.agents)
    np.testing.assert_array_equal(dataset.column(ACTION), table.actions)
    np.testing.assert_array_equal(
        dataset.column(ENVIRONMENT_STATE), table.keypoints(slice(0, len(table.agents)))
    )
    np.testing.assert_array_equal(dataset.column("next.reward").reshape(-1), table.rewards)
    ends = np.cumsum(table.lengths) - 1
    np.testing.assert_array_equal(np.flatnonzero(dataset.column("next.success").reshape(-1)), ends)
    assert len(messages) == len(table)


@pytest.mark.slow
def test_dataset_with_images_shows_what_the_environment_would(
    tmp_path: Path, first_three: Demonstrations
) -> None:
    from trainables.dataset.frames import open_frames

    root = ensure_dataset(tmp_path, images=True)
    dataset = open_dataset(root)
    (camera,) = dataset.policy_features.cameras
    assert (camera.name, camera.shape) == (IMAGE, (3, 96, 96))
    frames = open_frames(dataset, IMAGE, None, tmp_path / "frames")
    simulator = PushTSimulator()
    simulator.reset(seed=0)
    for row in (0, 11, 20, 35):
        simulator.place(first_three.agents[row], first_three.blocks[row])
        shown = frames.take(np.array([row]))[0].astype(int).transpose(1, 2, 0)
        assert np.abs(shown - simulator.image()).mean() < 3


def test_image_of_a_placed_state_is_the_image_of_the_simulated_one() -> None:
    table = load_demonstrations()
    rows = table.rows(5)
    simulated, placed = PushTSimulator(), PushTSimulator()
    simulated.reset_to(table.starts[5])
    placed.reset(seed=0)
    for frame, action in enumerate(table.actions[rows]):
        if frame % 7 == 0:
            placed.place(table.agents[rows][frame], table.blocks[rows][frame])
            assert np.abs(placed.image().astype(int) - simulated.image()).mean() < 0.05
        simulated.advance(action)


@pytest.mark.slow
def test_dataset_is_built_once_and_then_found(tmp_path: Path, first_three: Demonstrations) -> None:
    messages: list[str] = []
    first = ensure_dataset(tmp_path, images=False, progress=messages.append)
    assert len(messages) == 3
    assert ensure_dataset(tmp_path, images=False, progress=messages.append) == first
    assert len(messages) == 3
    assert ensure_dataset(tmp_path, images=True) != first


def test_processes_that_ask_at_once_get_one_whole_dataset(
    tmp_path: Path, first_three: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those that wait say so every few seconds, and on a busy machine they wait longer than that.
    monkeypatch.setattr("trainables.dataset.shared_cache.PROGRESS_EVERY_S", 600.0)
    messages: list[str] = []
    roots: list[Path] = []

    def ask() -> None:
        roots.append(ensure_dataset(tmp_path, images=False, progress=messages.append))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(roots)) == 1
    assert len(roots) == 4
    assert len(messages) == 3
    assert len(open_dataset(roots[0])) == 36


def test_another_table_is_another_dataset(tmp_path: Path, first_three: Demonstrations) -> None:
    changed = ensure_dataset(tmp_path, images=False)
    first_three.actions[0, 0] += 1
    module._table_hash.cache_clear()
    assert ensure_dataset(tmp_path, images=False) != changed


def test_build_that_fails_leaves_no_dataset(tmp_path: Path, first_three: Demonstrations) -> None:
    def interrupt(message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_dataset(tmp_path, images=False, progress=interrupt)
    assert [path for path in (tmp_path / "datasets").iterdir() if path.is_dir()] == []
    assert len(open_dataset(ensure_dataset(tmp_path, images=False))) == 36


def test_damaged_table_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demonstrations.npz").write_bytes(b"no table")
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    load_demonstrations.cache_clear()
    try:
        with pytest.raises(DemonstrationsError, match=r"python -m tools\.pusht_expert\.generate"):
            load_demonstrations()
    finally:
        load_demonstrations.cache_clear()


@pytest.mark.slow
@pytest.mark.reference
def test_features_are_named_and_ordered_as_in_the_real_set(shared: Path, tmp_path: Path) -> None:
    import json

    real = json.loads((shared / "data/pusht/meta/info.json").read_text())
    own = json.loads((ensure_dataset(tmp_path, images=False) / "meta/info.json").read_text())
    assert own["fps"] == real["fps"]
    expected = {name: each for name, each in real["features"].items() if name != IMAGE}
    assert list(own["features"]) == list(expected)
    for name, feature in expected.items():
        assert {key: own["features"][name][key] for key in feature} == feature
