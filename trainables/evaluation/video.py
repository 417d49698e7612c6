"""Films of rollouts: a few episodes side by side, failures first.

Nothing is drawn while a policy is rolled out. The simulator is deterministic, so the chosen episodes are
played again from their recorded actions, and only they are drawn.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainables.environment import Environment, SimulatorError
from trainables.evaluation.rollout import EpisodeResult
from trainables.evaluation.simulators import FAILURES, make_environment, release
from trainables.features import PolicyFeatures

__all__ = ["choose_episodes", "film_episodes", "write_video"]

ENCODERS = ("libx264", "libopenh264", "h264", "mpeg4")
"""In the order of preference; the first two write what every browser plays."""
STEPS_PER_FRAME = 2
SPEED = 4
"""How much faster than real time a film of episodes plays."""
HOLD_S = 1.0
"""How long a film shows its last frame."""
BORDER_PX = 6
LABEL_PX = 22
RUNNING, FAILURE, SUCCESS = (110, 110, 110), (200, 40, 40), (30, 150, 60)

log = logging.getLogger(__name__)


def choose_episodes(results: Sequence[EpisodeResult], episodes: int) -> list[EpisodeResult]:
    """Choose episodes for a film: failures first, each kind by index."""
    return sorted(results, key=lambda result: (result.record.success, result.record.episode))[:episodes]


def film_episodes(
    results: Sequence[EpisodeResult], env_id: str, features: PolicyFeatures, path: Path, *, episodes: int = 4
) -> Path | None:
    """Play chosen episodes again and film them side by side, each labelled with its result.

    Args:
        results: Episodes of one evaluation.
        env_id: The environment of the rollout.
        features: What the policy sees and does, as given to the rollout.
        path: The mp4 to write.
        episodes: How many episodes the film shows; failures come first.

    Returns:
        ``path``, or None if there is nothing to film, or if the environment cannot be created or drawn: the
        results of the episodes exist, so that error is only logged.
    """
    chosen = choose_episodes(results, episodes)
    if not chosen:
        return None
    environments: list[Environment] = []
    try:
        environments += [make_environment(env_id, features) for _ in chosen]
        reels = [
            _filmed(result, environment) for result, environment in zip(chosen, environments, strict=True)
        ]
        fps = environments[0].fps * SPEED / STEPS_PER_FRAME
        write_video(_side_by_side(reels, hold_frames=round(HOLD_S * fps)), path, fps)
    except SimulatorError:
        log.warning("rollout.video: no film, because the simulator could not be drawn", exc_info=True)
        return None
    finally:
        for environment in environments:
            release(environment)
    return path


def write_video(frames: Iterable[np.ndarray], path: Path, fps: float) -> None:
    """Write frames, uint8 (H, W, 3), all of one size, as an mp4 that is either complete or absent.

    Odd sizes lose their last row or column, as the pixel format requires.

    Raises:
        ValueError: If there are no frames.
    """
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{path}: a video needs at least one frame")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.mp4")
    height, width = (first.shape[0] // 2 * 2, first.shape[1] // 2 * 2)
    try:
        with av.open(str(unfinished), "w") as container:
            stream = _stream(container, fps, height, width)
            for image_HWC in chain([first], remaining):
                picture = np.ascontiguousarray(image_HWC[:height, :width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _stream(container: Any, fps: float, height: int, width: int) -> Any:
    name = next(encoder for encoder in ENCODERS if encoder in av.codecs_available)
    stream = container.add_stream(name, rate=max(round(fps), 1))
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    # One thread: films are encoded beside training, and the same frames then give the same bytes.
    stream.codec_context.thread_count = 1
    if name == "libx264":
        stream.options = {"crf": "26", "preset": "veryfast"}
    return stream


def _filmed(result: EpisodeResult, environment: Environment) -> Iterator[np.ndarray]:
    """Frames of one episode; any error of the simulator is a SimulatorError, unlike that of a full disk."""
    try:
        yield from _play(result, environment)
    except FAILURES as error:
        raise SimulatorError(f"{type(error).__name__}: {error}") from error


def _play(result: EpisodeResult, environment: Environment) -> Iterator[np.ndarray]:
    """Frames of one episode; the last one shows its result."""
    environment.reset(result.record.seed)
    best, success = 0.0, False
    yield _labelled(environment.frame(), f"#{result.record.episode}", RUNNING)
    for step_number, action in enumerate(result.actions, start=1):
        step = environment.step(action, observe=False)
        best, success = max(best, step.reward), success or step.success
        text = f"#{result.record.episode}  step {step_number}  max reward {best:.2f}"
        if step_number == len(result.actions):
            outcome, colour = ("success", SUCCESS) if success else ("failure", FAILURE)
            yield _labelled(environment.frame(), f"{text}  {outcome}", colour)
        elif step_number % STEPS_PER_FRAME == 0:
            yield _labelled(environment.frame(), text, RUNNING)


def _labelled(frame_HWC: np.ndarray, text: str, colour: tuple[int, int, int]) -> np.ndarray:
    """Frame with a coloured border and a line of text above."""
    height, width = frame_HWC.shape[:2]
    canvas = Image.new("RGB", (width + 2 * BORDER_PX, height + LABEL_PX + BORDER_PX), colour)
    canvas.paste(Image.fromarray(frame_HWC), (BORDER_PX, LABEL_PX))
    font = ImageFont.load_default()
    ImageDraw.Draw(canvas).text(
        (BORDER_PX, LABEL_PX // 2), text, fill=(255, 255, 255), font=font, anchor="lm"
    )
    return np.asarray(canvas)


def _side_by_side(reels: Sequence[Iterator[np.ndarray]], hold_frames: int) -> Iterator[np.ndarray]:
    """Tile reels in a grid; a reel that has ended keeps its last frame."""
    tiles = [next(reel) for reel in reels]
    columns = ceil(sqrt(len(tiles)))
    running = True
    while running:
        yield _grid(tiles, columns)
        running = False
        for position, reel in enumerate(reels):
            tile = next(reel, None)
            if tile is not None:
                tiles[position], running = tile, True
    for _ in range(hold_frames):
        yield _grid(tiles, columns)


def _grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    blank = np.full_like(tiles[0], 255)
    filled = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [
        np.concatenate(filled[start : start + columns], axis=1) for start in range(0, len(filled), columns)
    ]
    return np.concatenate(rows, axis=0)
