"""The fixture that writes small datasets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import pictures, states

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

MakeDataset = Callable[..., Path]


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """Write a dataset: ``make_dataset(lengths=(5, 3), cameras={"observation.image": PICTURE})``."""

    def make(
        name: str = "set",
        *,
        lengths: Sequence[int] = (12, 7, 9, 10),
        cameras: Mapping[str, DatasetFeature] | None = None,
        tasks: Sequence[str] = ("Push.",),
        changes: Mapping[tuple[str, int], np.ndarray] | None = None,
        extra: Mapping[str, DatasetFeature] | None = None,
        **options: Any,
    ) -> Path:
        cameras = cameras or {}
        features = {
            **cameras,
            "observation.state": DatasetFeature("float32", (2,), ["x", "y"]),
            "action": DatasetFeature("float32", (2,), ["x", "y"]),
            **(extra or {}),
        }
        options = {"fps": 10, "encoder": "libx264", **options}
        with DatasetWriter(tmp_path / name, features=features, **options) as writer:
            for episode, length in enumerate(lengths):
                columns = {
                    "observation.state": states(episode, length),
                    "action": 100 + states(episode, length),
                    **{key: pictures(episode, length, *f.shape[:2]) for key, f in cameras.items()},
                }
                for (feature, changed), values in (changes or {}).items():
                    if changed in (episode, -1):
                        columns[feature] = values[:length] if changed == -1 else values
                writer.add_episode(columns, task=tasks[episode % len(tasks)])
        return tmp_path / name

    return make
