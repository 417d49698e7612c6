"""How long a batch of image windows takes: from the memory map, and decoding on access.

Decoding on access is what a loader does that keeps the dataset as video: the frames that a batch needs are
sought and decoded from the mp4 every time. Both sides give the same batches; that is checked first.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.frames import open_frames
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows

CAMERA = "observation.image"
EPISODES, LENGTH, SIZE = 20, 120, 96
BATCH = 64
OBSERVATION_STEPS = 2
DROPPED = 7


def run() -> dict[str, float]:
    """Measure both; milliseconds per batch, and the seconds that decoding everything once takes."""
    with tempfile.TemporaryDirectory() as folder:
        root = _write_dataset(Path(folder) / "dataset")
        dataset = open_dataset(str(root))
        start_s = time.perf_counter()
        frames = open_frames(dataset, CAMERA, None, Path(folder) / "cache", print)
        ingest_s = time.perf_counter() - start_s
        windows = Windows(
            dataset,
            tuple(range(EPISODES)),
            n_obs_steps=OBSERVATION_STEPS,
            horizon=16,
            drop_n_last_frames=DROPPED,
            frames={CAMERA: frames},
        )
        order = windows.order(0, 0)
        numbers = order[:BATCH]
        rows = _rows(dataset)[numbers]
        same = np.array_equal(windows.gather(numbers)[CAMERA].numpy(), _decode(dataset, rows))
        if not same:
            raise RuntimeError("the memory map and the video give different frames")
        mapped = [
            _milliseconds(lambda at=at: windows.gather(order[at : at + BATCH])) for at in range(0, 960, BATCH)
        ]
        decoded = [
            _milliseconds(lambda at=at: _decode(dataset, _rows(dataset)[order[at : at + BATCH]]))
            for at in range(0, 192, BATCH)
        ]
    return {
        "batch from the memory map, ms": float(np.median(mapped)),
        "batch decoded on access, ms": float(np.median(decoded)),
        "times faster": float(np.median(decoded) / np.median(mapped)),
        "decoding everything once, s": ingest_s,
        "frames": float(len(dataset)),
    }


def _write_dataset(root: Path) -> Path:
    features = {
        CAMERA: DatasetFeature("video", (SIZE, SIZE, 3), ["height", "width", "channel"]),
        "observation.state": DatasetFeature("float32", (2,)),
        "action": DatasetFeature("float32", (2,)),
    }
    across = np.indices((SIZE, SIZE)).sum(axis=0)
    rng = np.random.default_rng(0)
    with DatasetWriter(root, fps=10, features=features) as writer:
        for _ in range(EPISODES):
            path = np.cumsum(rng.normal(size=(LENGTH, 2)), axis=0).astype(np.float32)
            shift = path.sum(axis=1).astype(int) * 3
            pictures = np.stack([(across + move) % 256 for move in shift]).astype(np.uint8)
            video = np.repeat(pictures[..., None], 3, axis=-1)
            writer.add_episode({CAMERA: video, "observation.state": path, "action": path}, task="Wander.")
    return root


def _rows(dataset: LeRobotDataset) -> np.ndarray:
    """Row of every sample of the windows."""
    stops = [episode.stop - DROPPED for episode in dataset.episodes]
    return np.concatenate(
        [np.arange(episode.start, stop) for episode, stop in zip(dataset.episodes, stops, strict=True)]
    )


def _decode(dataset: LeRobotDataset, rows: np.ndarray) -> np.ndarray:
    """Decode what the windows at ``rows`` show, (B, To, C, H, W)."""
    starts = np.array([dataset.episode_of(int(row)).start for row in rows])
    steps = np.arange(1 - OBSERVATION_STEPS, 1)
    wanted = np.maximum(rows[:, None] + steps, starts[:, None])
    pictures = dataset.pictures(CAMERA, wanted.ravel())
    return pictures.reshape(*wanted.shape, *pictures.shape[1:])


def _milliseconds(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return (time.perf_counter() - start_s) * 1e3
