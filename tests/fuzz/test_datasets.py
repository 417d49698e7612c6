"""Datasets from strangers: one that opens gives windows, any other is refused in our words."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE_NUMBERS, HOSTILE_TEXTS, as_json, damaged_bytes, damaged_trees, fuzz

from trainables.dataset.doctor.preflight import preflight
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.open import open_dataset
from trainables.dataset.policy_statistics import policy_statistics

pytestmark = pytest.mark.slow

CAMERA = "observation.image"
LENGTHS = (5, 3, 4)
ROOM_B = 4 * 2**30
"""What a refused dataset may make us allocate at most; far less is expected."""


@pytest.fixture(scope="module", params=["v3.0", "v2.1"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset with a camera, whole."""
    root = tmp_path_factory.mktemp("whole") / "set"
    generator = np.random.default_rng(0)
    features = {
        CAMERA: DatasetFeature("video", (32, 32, 3), ["height", "width", "channels"]),
        "observation.state": DatasetFeature("float32", (2,), ["x", "y"]),
        "action": DatasetFeature("float32", (2,), ["x", "y"]),
    }
    with DatasetWriter(root, features=features, fps=10, encoder="libx264", version=request.param) as writer:
        for length in LENGTHS:
            columns = {
                CAMERA: generator.integers(0, 255, (length, 32, 32, 3), dtype=np.uint8),
                "observation.state": generator.normal(size=(length, 2)).astype(np.float32),
                "action": generator.normal(size=(length, 2)).astype(np.float32),
            }
            writer.add_episode(columns, task="Push.")
    return root


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """Let nothing allocate without bound: a size that a file claims is not a size that we believe."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM_B, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def try_dataset(root: Path) -> None:
    """Read a dataset as a user's command would."""
    try:
        faults = preflight(root, holdout_fraction=0.1)
        assert all(str(fault).strip() for fault in faults)
        dataset = open_dataset(root)
        assert len(dataset) > 0
        for index in {0, len(dataset) // 2, len(dataset) - 1}:
            window = dataset.window(index, 2, 4)
            assert window["action"].shape == (4, *dataset.policy_features.action.shape)
        policy_statistics(dataset)
        assert isinstance(dataset.fingerprint, str)
    except DatasetError as error:
        assert str(error).strip()  # noqa: PT017 - whether it is refused depends on the damage


def copied(whole: Path, factory: pytest.TempPathFactory) -> Path:
    root = factory.mktemp("fuzz") / "set"
    shutil.copytree(whole, root)
    return root


@fuzz(1.0, 60)
@given(data=st.data())
def test_info_json_with_damaged_values(whole, tmp_path_factory, data) -> None:
    root = copied(whole, tmp_path_factory)
    info = root / "meta" / "info.json"
    info.write_bytes(as_json(data.draw(damaged_trees(json.loads(info.read_text())))))
    try_dataset(root)
    shutil.rmtree(root.parent)


@fuzz(0.5, 30)
@given(data=st.data())
def test_metadata_files_with_damaged_bytes(whole, tmp_path_factory, data) -> None:
    root = copied(whole, tmp_path_factory)
    files = sorted(path for folder in ("meta", "data", "videos") for path in (root / folder).rglob("*"))
    files = [path for path in files if path.is_file()]
    file = data.draw(st.sampled_from(files))
    file.write_bytes(data.draw(damaged_bytes(file.read_bytes())))
    try_dataset(root)
    shutil.rmtree(root.parent)


@fuzz(1.0, 60)
@given(data=st.data())
def test_metadata_tables_with_damaged_values(whole, tmp_path_factory, data) -> None:
    root = copied(whole, tmp_path_factory)
    tables = sorted([*(root / "meta").rglob("*.parquet"), *(root / "data").rglob("*.parquet")])
    lines = sorted((root / "meta").glob("*.jsonl"))
    file = data.draw(st.sampled_from([*tables, *lines]))
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        damaged = data.draw(damaged_trees(rows))
        rows = damaged if isinstance(damaged, list) else [damaged]
        file.write_bytes(b"\n".join(as_json(row) for row in rows))
    else:
        pq.write_table(data.draw(damaged_tables(pq.ParquetFile(file).read())), file)
    try_dataset(root)
    shutil.rmtree(root.parent)


@st.composite
def damaged_tables(draw: st.DrawFn, table: pa.Table) -> pa.Table:
    """A table in which a column was dropped, renamed, retyped, or got hostile values; or rows were lost."""
    for _ in range(draw(st.integers(1, 2))):
        if not table.num_columns:
            return table
        name = draw(st.sampled_from(table.column_names))
        place = table.column_names.index(name)
        action = draw(st.sampled_from(sorted(_DAMAGES)))
        table = _DAMAGES[action](draw, table, place)
    return table


def _hostile(draw: st.DrawFn, table: pa.Table, place: int) -> pa.Table:
    values = table.column(place).to_pylist()
    if values:
        row = draw(st.integers(0, len(values) - 1))
        hostile = st.sampled_from([*HOSTILE_NUMBERS, *HOSTILE_TEXTS, None, float("nan"), [], [1.0], b"\x00"])
        values[row] = draw(hostile)
    return _put(table, place, values)


def _put(table: pa.Table, place: int, values: list[Any]) -> pa.Table:
    kind = table.column(place).type
    for build in (
        lambda: pa.array(values, kind),
        lambda: pa.array(values),
        lambda: pa.array(map(str, values)),
    ):
        try:
            return table.set_column(place, table.column_names[place], build())
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
    return table


_DAMAGES: dict[str, Callable[[st.DrawFn, pa.Table, int], pa.Table]] = {
    "drop column": lambda _draw, table, place: table.remove_column(place),
    "drop rows": lambda draw, table, _place: table.slice(draw(st.integers(0, table.num_rows))),
    "hostile value": _hostile,
    "hostile value again": _hostile,
    "nulls": lambda _draw, table, place: table.set_column(
        place, table.column_names[place], pa.nulls(table.num_rows, table.column(place).type)
    ),
    "rename": lambda draw, table, place: table.rename_columns(
        [draw(st.text(max_size=5)) if n == place else name for n, name in enumerate(table.column_names)]
    ),
    "repeat rows": lambda _draw, table, _place: pa.concat_tables([table, table]),
    "text": lambda _draw, table, place: _put(table, place, [str(v) for v in table.column(place).to_pylist()]),
}
