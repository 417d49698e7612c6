from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from reach_simulator import PUSHT_STATE, REACH, NoisyNetwork, Reach, Recorder

from trainables.episodes import EpisodeRecord
from trainables.evaluation import video
from trainables.evaluation.rollout import EpisodeResult, rollout
from trainables.evaluation.video import choose_episodes, film_episodes, write_video
from trainables.features import PolicyFeatures


def decode(path: Path) -> tuple[np.ndarray, float, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        return np.stack(frames), float(stream.average_rate), stream.codec_context.name


def episode(index: int, success: bool) -> EpisodeResult:
    record = EpisodeRecord(
        index, index, success=success, max_reward=0.0, sum_reward=0.0, length=1, chunk_ms=1.0
    )
    return EpisodeResult(record, np.zeros((1, 2), np.float32))


def test_frames_come_back_in_order_and_in_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "a folder's" / "new.mp4"
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)]
    write_video((np.full((48, 64, 3), colour, np.uint8) for colour in colours), path, fps=5)
    frames, fps, codec = decode(path)
    assert (fps, codec) == (5.0, "h264")
    np.testing.assert_allclose(frames.mean(axis=(1, 2)), colours, atol=6)
    assert [file.name for file in path.parent.iterdir()] == ["new.mp4"]


def test_odd_sizes_lose_one_row_or_column(tmp_path: Path) -> None:
    write_video([np.zeros((33, 41, 3), np.uint8)] * 3, tmp_path / "odd.mp4", fps=5)
    assert decode(tmp_path / "odd.mp4")[0].shape == (3, 32, 40, 3)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    write_video([np.zeros((16, 16, 3), np.uint8)], path, fps=5)
    before = path.read_bytes()

    def broken():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("the simulator died")

    with pytest.raises(RuntimeError, match="died"):
        write_video(broken(), path, fps=5)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="at least one frame"):
        write_video([], path, fps=5)


def test_failures_are_shown_first() -> None:
    results = [episode(0, True), episode(1, False), episode(2, True), episode(3, False)]
    assert [result.record.episode for result in choose_episodes(results, 3)] == [1, 3, 0]


def test_nothing_to_film_is_no_film(tmp_path: Path) -> None:
    assert film_episodes([], "CartPole-v1", REACH, tmp_path / "film.mp4") is None
    results = [episode(0, True)]
    assert film_episodes(results, "CartPole-v1", REACH, tmp_path / "film.mp4", episodes=0) is None
    assert list(tmp_path.iterdir()) == []


def test_film_plays_the_recorded_episode_again_and_its_border_shows_the_result(tmp_path: Path) -> None:
    env_id = "reach_simulator:make_reach"
    results = rollout(Recorder(), env_id, episode_indices=[0, 1], seed=0, parallel=2, max_steps=9)
    assert [result.record.success for result in results] == [True, True]
    path = film_episodes(results, env_id, REACH, tmp_path / "film.mp4", episodes=1)
    assert path is not None
    frames, fps, _ = decode(path)
    assert fps == 20 * video.SPEED / video.STEPS_PER_FRAME
    np.testing.assert_allclose(frames[0, -3, -3], video.RUNNING, atol=12)
    np.testing.assert_allclose(frames[-1, -3, -3], video.SUCCESS, atol=12)


class SoonDark(Reach):
    """Its third picture cannot be drawn."""

    drawn = 0

    def render(self) -> np.ndarray:
        self.drawn += 1
        if self.drawn > 2:
            raise RuntimeError("the display is gone")
        return super().render()


def make_soon_dark(features: PolicyFeatures) -> SoonDark:
    return SoonDark()


def test_a_simulator_that_cannot_be_drawn_costs_the_film_not_the_results(tmp_path: Path, caplog) -> None:
    env_id = f"{__name__}:make_soon_dark"
    results = rollout(Recorder(), env_id, episode_indices=[0], seed=0, parallel=1, max_steps=9)
    assert film_episodes(results, env_id, REACH, tmp_path / "film.mp4") is None
    assert "no film" in caplog.text
    assert "the display is gone" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_film_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    env_id = "reach_simulator:make_reach"
    results = rollout(Recorder(), env_id, episode_indices=[0], seed=0, parallel=1, max_steps=9)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        film_episodes(results, env_id, REACH, tmp_path / "file" / "film.mp4")


@pytest.mark.slow
def test_push_t_films_four_episodes_in_a_square_with_failures_in_red(tmp_path: Path) -> None:
    policy = NoisyNetwork(PUSHT_STATE)
    env_id = "gym_pusht/PushT-v0"
    results = rollout(policy, env_id, episode_indices=range(4), seed=0, parallel=4, max_steps=12)
    path = film_episodes(results, env_id, PUSHT_STATE, tmp_path / "film.mp4")
    assert path is not None
    frames, _, _ = decode(path)
    tile = (256 + video.LABEL_PX + video.BORDER_PX, 256 + 2 * video.BORDER_PX)
    assert frames.shape[1:3] == (2 * tile[0], 2 * tile[1])
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = frames[-1, (row + 1) * tile[0] - 3, (column + 1) * tile[1] - 3]
        np.testing.assert_allclose(corner, video.FAILURE, atol=14)
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 1
