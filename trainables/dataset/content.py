"""Whether two datasets hold the same demonstrations, wherever they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.files import add_content

__all__ = ["content_digest"]

WHOLE_B = 256 * 1024
BLOCKS = 4


def content_digest(dataset: LeRobotDataset) -> str:
    """Identify what a policy would learn from: the chosen episodes' numbers, and the files of their pictures.

    `LeRobotDataset.fingerprint` identifies files: it changes if info.json is only formatted again, and a
    dataset on the hub has another one than a copy of it in a folder. This digest is the same for both. It
    changes if an episode is added or left out, a value changes, or a video is encoded again.
    """
    digest = hashlib.sha256()
    features = dataset.policy_features
    lengths = [(episode.index, episode.stop - episode.start) for episode in dataset.episodes]
    described = [(feature.name, list(feature.shape)) for feature in features.all()]
    digest.update(json.dumps([dataset.fps, lengths, described]).encode())
    cameras = {camera.name for camera in features.cameras}
    for feature in features.all():
        if feature.name not in cameras:
            digest.update(np.ascontiguousarray(dataset.vector(feature.name)).tobytes())
    for camera in sorted(cameras):
        for file in _picture_files(dataset, camera):
            _add_file(digest, file)
    return digest.hexdigest()


def _picture_files(dataset: LeRobotDataset, camera: str) -> list[Path]:
    """The files with a camera's pictures, in the order of the episodes."""
    found: dict[Path, None] = {}
    for folder in dataset.folders:
        metadata = folder.metadata
        for record in folder.records:
            if camera in record.videos:
                found[metadata.file(record.videos[camera].path)] = None
        if not any(camera in record.videos for record in folder.records):
            found |= dict.fromkeys(metadata.root / name for name in metadata.data_files(folder.records))
    return list(found)


def _add_file(digest: hashlib._Hash, path: Path) -> None:
    """Add the size of a file, and all of it or some blocks; not its name."""
    try:
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        add_content(digest, path, size, whole_b=WHOLE_B, blocks=BLOCKS)
    except OSError:
        digest.update(b"missing\n")
