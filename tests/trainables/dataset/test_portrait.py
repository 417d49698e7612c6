"""Portraits: the numbers are the dataset's, the pictures show what they say, the dataset stays as it is."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from demonstrations import CAMERA, HEIGHT, NAMES, WIDTH, record
from PIL import Image

from trainables.dataset import drawing
from trainables.dataset.drawing import HEADER, MARGIN, Histogram, HistogramGroup, draw_histograms, fitted
from trainables.dataset.open import open_dataset
from trainables.dataset.portrait import CELL_PX, LABEL_PX, portray


class Portrayed(NamedTuple):
    """A dataset of three episodes and its portrait."""

    root: Path
    before: list[tuple[Path, int]]
    out: Path
    portrait: dict[str, Any]


def files_of(root: Path) -> list[tuple[Path, int]]:
    return sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))


@pytest.fixture(scope="module")
def portrayed(tmp_path_factory: pytest.TempPathFactory) -> Portrayed:
    folder = tmp_path_factory.mktemp("portrayed")
    root = record(folder / "set", (20, 40, 30), tasks=("Push.", "Pull."))
    before = files_of(root)
    return Portrayed(root, before, folder / "out", portray(open_dataset(root), folder / "out"))


@pytest.mark.slow
def test_a_portrait_says_what_the_dataset_is(portrayed):
    root, before, _, portrait = portrayed
    assert (portrait["version"], portrait["fps"], portrait["episodes"], portrait["frames"]) == (
        "v3.0",
        10,
        3,
        90,
    )
    assert portrait["hours"] == pytest.approx(9 / 3600)
    assert portrait["tasks"] == [{"task": "Push.", "episodes": 2}, {"task": "Pull.", "episodes": 1}]
    assert portrait["features"]["action"] == {
        "dtype": "float32",
        "shape": [4],
        "names": NAMES,
        "used_as": "action",
    }
    assert portrait["features"][CAMERA]["shape"] == [HEIGHT, WIDTH, 3]
    assert portrait["features"][CAMERA]["used_as"] == "camera"
    assert portrait["features"]["timestamp"]["used_as"] is None
    assert (portrait["episode_s"]["shortest"], portrait["episode_s"]["longest"]) == (2, 4)
    on_disk = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    assert portrait["size_gb"]["all"] * 1e9 == pytest.approx(on_disk)
    assert files_of(root) == before


@pytest.mark.slow
def test_the_contact_sheet_shows_each_episodes_moments(portrayed):
    root, _, out, portrait = portrayed
    dataset = open_dataset(root)
    sheet, distributions = (Path(path) for path in portrait["pictures"])
    assert sheet.name == f"contact-sheet-{CAMERA}.png"
    assert distributions.name == "distributions.png"
    assert sorted(path.name for path in out.iterdir()) == [sheet.name, distributions.name]
    page = np.asarray(Image.open(sheet))
    tall = round(CELL_PX * HEIGHT / WIDTH)
    first = page[HEADER + MARGIN // 2 :, MARGIN + LABEL_PX :][:tall, :CELL_PX]
    shown = dataset.pictures(CAMERA, np.array([0]), (tall, CELL_PX))[0]
    assert np.array_equal(first, np.moveaxis(shown, 0, -1))
    with Image.open(distributions) as drawn:
        assert drawn.width > 4 * 300


@pytest.mark.slow
def test_pictures_that_cannot_be_read_leave_an_empty_frame(tmp_path):
    root = record(tmp_path / "set", version="v2.1", lengths=(20,) * 3)
    sorted(root.rglob("*.mp4"))[1].unlink()
    portrait = portray(open_dataset(root), tmp_path / "out")
    assert len(portrait["pictures"]) == 2


@pytest.mark.slow
def test_one_frame_and_a_constant_can_be_drawn(tmp_path):
    def alone(_, columns):
        columns["action"][:, 0] = np.nan
        columns["action"][:, 1] = 3

    root = record(tmp_path / "set", (1, 2), change=alone)
    portrait = portray(open_dataset(root), tmp_path / "out")
    assert all(Path(path).stat().st_size > 1000 for path in portrait["pictures"])


def page(*histograms: Histogram) -> np.ndarray:
    return np.asarray(draw_histograms("title", "subtitle", [HistogramGroup("heading", histograms)]))


def test_a_histograms_bars_are_as_tall_as_their_shares():
    values = np.array([0.0] * 30 + [1.0] * 60, np.float32)
    red = (page(Histogram("x", values, "#ff0000")) == [255, 0, 0]).all(axis=-1)
    columns = red.sum(axis=0)
    bars = columns[columns > 0]
    assert bars[0] == pytest.approx(bars[-1] / 2, abs=1)
    assert bars[-1] == red.any(axis=1).sum()


def test_a_value_that_occurs_once_is_seen():
    values = np.array([0.0] * 100_000 + [1.0], np.float32)
    red = (page(Histogram("x", values, "#ff0000")) == [255, 0, 0]).all(axis=-1)
    ends = np.flatnonzero(red.any(axis=0))[[0, -1]]
    assert ends[1] - ends[0] > 200


@pytest.mark.slow
def test_threads_draw_the_same_page_at_the_same_time_pixel_by_pixel():
    values = np.random.default_rng(0).normal(size=500).astype(np.float32)
    histograms = [Histogram(f"joint {number}", values * 10.0**number, "#3a7ca5") for number in (-6, 0, 6)]
    with ThreadPoolExecutor(4) as threads:
        pages = list(threads.map(lambda _: page(*histograms), range(4)))
    assert all(np.array_equal(pages[0], other) for other in pages[1:])


@pytest.mark.parametrize(
    ("sizes", "abreast"),
    [([2, 2, 1], 2), ([2, 2, 16, 1], 4), ([6, 6, 1], 3), ([10, 1], 5), ([5, 5, 1], 5), ([64, 1], 4)],
)
def test_rows_of_histograms_leave_few_places_empty(sizes, abreast):
    assert drawing._abreast(sizes) == abreast


def test_a_name_is_text_not_a_formula():
    values = np.array([0.0, 1.0], np.float32)
    assert page(Histogram("$\\broken{", values, "#ff0000")).size  # would raise as a formula


def test_long_text_loses_its_middle_and_unknown_letters_do_not_fail():
    assert fitted("short", 14, 500) == "short"
    assert fitted("two\nlines", 14, 500) == "two lines"
    names = [f"left_arm_shoulder_pitch_joint_position_{number}.pos" for number in range(3)]
    cut = [fitted(name, 14, 160) for name in names]
    assert len(set(cut)) == 3, "names that end differently stay different"
    assert all(text.startswith("left_arm") and "…" in text for text in cut)
    assert fitted(names[0], 14, 0) == "…"
    assert fitted("推", 14, 100) == "?"
    assert fitted("", 14, 100) == ""
