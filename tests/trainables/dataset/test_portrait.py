"""Portraits: the numbers are the dataset's, the pictures show what they say, the dataset stays as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from demonstrations import CAMERA, HEIGHT, NAMES, WIDTH, record
from PIL import Image

from trainables.dataset.drawing import HEADER, MARGIN, Histogram, draw_histogram, fitted, font, new_page
from trainables.dataset.open import open_dataset
from trainables.dataset.portrait import CELL_PX, LABEL_PX, portray


def test_a_portrait_says_what_the_dataset_is(tmp_path):
    root = record(tmp_path / "set", (20, 40, 30), tasks=("Push.", "Pull."))
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    portrait = portray(open_dataset(root), tmp_path / "out")
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
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


def test_the_contact_sheet_shows_each_episodes_moments(tmp_path):
    root = record(tmp_path / "set", (20, 40, 30))
    dataset = open_dataset(root)
    portrait = portray(dataset, tmp_path / "out")
    sheet, distributions = (Path(path) for path in portrait["pictures"])
    assert sheet.name == f"contact-sheet-{CAMERA}.png"
    assert distributions.name == "distributions.png"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [sheet.name, distributions.name]
    page = np.asarray(Image.open(sheet))
    tall = round(CELL_PX * HEIGHT / WIDTH)
    first = page[HEADER + MARGIN // 2 :, MARGIN + LABEL_PX :][:tall, :CELL_PX]
    shown = dataset.pictures(CAMERA, np.array([0]), (tall, CELL_PX))[0]
    inside = (slice(1, -1), slice(1, -1))  # within the frame that is drawn around it
    assert np.array_equal(first[inside], np.moveaxis(shown, 0, -1)[inside])
    with Image.open(distributions) as drawn:
        assert drawn.width > 4 * 300


def test_pictures_that_cannot_be_read_leave_an_empty_frame(tmp_path):
    root = record(tmp_path / "set", version="v2.1", lengths=(20,) * 3)
    sorted(root.rglob("*.mp4"))[1].unlink()
    portrait = portray(open_dataset(root), tmp_path / "out")
    assert len(portrait["pictures"]) == 2


def test_one_frame_and_a_constant_can_be_drawn(tmp_path):
    def alone(_, columns):
        columns["action"][:, 0] = np.nan
        columns["action"][:, 1] = 3

    root = record(tmp_path / "set", (1, 2), change=alone)
    portrait = portray(open_dataset(root), tmp_path / "out")
    assert all(Path(path).stat().st_size > 1000 for path in portrait["pictures"])


def test_a_histograms_bars_are_as_tall_as_their_shares():
    page, draw = new_page(400, 300, "title", "subtitle")
    values = np.array([0.0] * 30 + [1.0] * 60, np.float32)
    draw_histogram(draw, (20, 80), (300, 200), Histogram("x", values, "#ff0000"))
    red = (np.asarray(page) == [255, 0, 0]).all(axis=-1)
    columns = red.sum(axis=0)
    bars = columns[columns > 0]
    assert bars[0] == pytest.approx(bars[-1] / 2, abs=1)
    assert bars[-1] == red.any(axis=1).sum()


def test_text_is_cut_to_its_room_and_unknown_letters_do_not_fail():
    assert fitted("short", 14, 500) == "short"
    cut = fitted("a task that is described at great length", 14, 100)
    assert cut.endswith("...")
    assert font(14).getlength(cut) <= 100
    assert fitted("推", 14, 100) == "?"
