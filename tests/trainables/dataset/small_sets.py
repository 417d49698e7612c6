"""Small datasets that show what they should: every frame's numbers and pictures follow from its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.dataset.format.schema import DatasetFeature

HEIGHT, WIDTH = 32, 48
PICTURE = DatasetFeature("video", (HEIGHT, WIDTH, 3), ["height", "width", "channels"])


def states(episode: int, length: int) -> np.ndarray:
    """Numbers that name their episode and frame."""
    frame = np.arange(length)
    return np.stack([episode + frame / 1000, -frame.astype(float)], axis=1).astype(np.float32)


def pictures(episode: int, length: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A bright square that walks over a gradient, (T, H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    ground = np.stack([x * 4 % 256, y * 7 % 256, (x + y + 40 * episode) % 256], axis=-1).astype(np.uint8)
    frames = np.repeat(ground[None], length, axis=0)
    for frame in range(length):
        left = (3 * frame + 5 * episode) % (width - 8)
        frames[frame, 4:12, left : left + 8] = 255 - 10 * (frame % 20)
    return frames


def edit_info(root: Path, **changes: Any) -> None:
    """Change top-level keys of info.json."""
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_table(path: Path, edit: Callable[[Any], Any]) -> None:
    """Read a parquet file, change the table, write it back."""
    pq.write_table(edit(pq.ParquetFile(path).read()), path)


def film_again(
    path: Path,
    frames: np.ndarray,
    *,
    rate: Fraction | int = 10,
    ticks: Sequence[int] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    given: str = "rgb24",
    options: Mapping[str, str] | None = None,
) -> None:
    """Write a video: frame ``i`` is shown at ``ticks[i] / rate`` seconds, or at ``i / rate``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.time_base = 1 / Fraction(rate)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format=given)
            frame.pts, frame.time_base = number if ticks is None else ticks[number], 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def numbered_pictures(count: int, first: int = 0, height: int = 16, width: int = 16) -> np.ndarray:
    """Pictures whose brightness is their number times 5, (count, height, width, 3)."""
    numbers = (5 * (first + np.arange(count)) % 256).astype(np.uint8)
    return np.broadcast_to(numbers[:, None, None, None], (count, height, width, 3)).copy()


def seen_numbers(pictures: np.ndarray) -> list[int]:
    """The numbers that pictures of ``numbered_pictures`` show."""
    return np.round(pictures.reshape(len(pictures), -1).mean(axis=1) / 5).astype(int).tolist()


PNG = DatasetFeature("image", (8, 10, 3), ["height", "width", "channels"])


def call_otherwise(root, names):
    """Give features other names, in info.json, in the data and in the folders of the videos."""
    info = json.loads((root / "meta/info.json").read_text())
    features = {names.get(name, name): feature for name, feature in info["features"].items()}
    edit_info(root, features=features)

    def rename(table: pa.Table) -> pa.Table:
        plain = [names.get(name, name) for name in table.column_names]
        for old, new in names.items():
            plain = [name.replace(f"videos/{old}/", f"videos/{new}/") for name in plain]
        return table.rename_columns(plain)

    for path in root.rglob("*.parquet"):
        edit_table(path, rename)
    for old, new in names.items():
        for folder in [path for path in root.rglob(old) if path.is_dir()]:
            folder.rename(folder.with_name(new))
    return root
