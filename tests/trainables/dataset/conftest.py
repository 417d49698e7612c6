"""The fixture that writes small datasets."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_sets import pictures, states

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

MakeDataset = Callable[..., Path]


@pytest.fixture(scope="session")
def written_datasets(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Mapping[str, Any]], Path]:
    """Datasets that are written once for all tests with the same arguments. A test gets a copy."""
    folder, known = tmp_path_factory.mktemp("datasets"), dict[bytes, Path]()

    def write(arguments: Mapping[str, Any]) -> Path:
        key = pickle.dumps(arguments)
        if key not in known:
            path = folder / str(len(known))
            _write(path, **arguments)
            known[key] = path
        return known[key]

    return write


@pytest.fixture
def make_dataset(written_datasets: Callable[[Mapping[str, Any]], Path], tmp_path: Path) -> MakeDataset:
    """Make a dataset: ``make_dataset(lengths=(5, 3), cameras={"observation.image": PICTURE})``."""

    def make(name: str = "set", **arguments: Any) -> Path:
        return shutil.copytree(written_datasets(arguments), tmp_path / name)

    return make


def _write(
    path: Path,
    *,
    lengths: Sequence[int] = (12, 7, 9, 10),
    cameras: Mapping[str, DatasetFeature] | None = None,
    tasks: Sequence[str] = ("Push.",),
    changes: Mapping[tuple[str, int], np.ndarray] | None = None,
    extra: Mapping[str, DatasetFeature] | None = None,
    **options: Any,
) -> None:
    cameras = cameras or {}
    features = {
        **cameras,
        "observation.state": DatasetFeature("float32", (2,), ["x", "y"]),
        "action": DatasetFeature("float32", (2,), ["x", "y"]),
        **(extra or {}),
    }
    options = {"fps": 10, "encoder": "libx264", **options}
    with DatasetWriter(path, features=features, **options) as writer:
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
