"""What a dataset is, for a person: numbers, a contact sheet of each camera, and how its values are spread.

Nothing is written into the dataset. A sheet decodes a few dozen pictures, however large the dataset is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainables.dataset.doctor.signals.numbers import spread_of
from trainables.dataset.doctor.wording import counted, dimension_names, vectors
from trainables.dataset.drawing import (
    HEADER,
    MARGIN,
    SOFT,
    Histogram,
    HistogramGroup,
    Page,
    draw_histograms,
    fitted,
    plain_name,
    save_page,
)
from trainables.dataset.errors import DatasetError
from trainables.dataset.statistics import evenly
from trainables.features import ACTION, STATE, FeatureType
from trainables.interface import silent

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import Episode, LeRobotDataset

__all__ = ["portray"]

SHEET_EPISODES, SHEET_TIMES = 8, 8
CELL_PX = 152
"""Width of a picture on the contact sheet; wide ones keep their shape."""
GAP, LABEL_PX, CAPTION = 8, 128, 22
MOST_DIMENSIONS = 64
"""A feature with more dimensions than this is drawn as far as so many, and the heading says so."""
COLOURS = {ACTION: "#e07b39", STATE: "#3a7ca5"}
OTHER_COLOUR, LENGTH_COLOUR = "#4f9d69", "#8a6fb0"
LENGTH_QUANTILES = {"q05": 0.05, "median": 0.5, "q95": 0.95}

Progress = Callable[[str], None]


def portray(dataset: LeRobotDataset, folder: Path, progress: Progress = silent) -> dict[str, Any]:
    """Describe a dataset, and draw it.

    Args:
        dataset: The opened dataset.
        folder: Where the pictures go; made if it is not there.
        progress: Told what is being done.

    Returns:
        JSON values: ``version``, ``fps``, ``episodes``, ``frames``, ``hours``, ``features``, ``tasks``,
        ``size_gb``, ``episode_s`` and ``pictures``, the paths of the files that were drawn.
    """
    described = _describe(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for camera in dataset.policy_features.cameras:
        progress(f"{camera.name}: contact sheet")
        path = folder / f"contact-sheet-{plain_name(camera.name)}.png"
        written.append(save_page(_contact_sheet(dataset, camera.name), path))
    progress("states and actions")
    written.append(save_page(_distributions(dataset), folder / "distributions.png"))
    return described | {"pictures": [str(path) for path in written]}


# -- numbers


def _describe(dataset: LeRobotDataset) -> dict[str, Any]:
    lengths_s = np.array([len(episode) for episode in dataset.episodes]) / dataset.fps
    tasks = Counter(task for episode in dataset.episodes for task in episode.tasks)
    used = {feature.name: feature.type for feature in dataset.policy_features.all()}
    return {
        "sources": [source.name for source in dataset.sources],
        "version": dataset.version,
        "fps": dataset.fps,
        "episodes": len(dataset.episodes),
        "frames": len(dataset),
        "hours": float(lengths_s.sum()) / 3600,
        "features": {
            name: {
                "dtype": feature.dtype,
                "shape": list(feature.shape),
                "names": None if feature.is_camera else _names(dataset, name),
                "used_as": _role(used[name]) if name in used else None,
            }
            for name, feature in dataset.features.items()
        },
        "tasks": [{"task": task, "episodes": count} for task, count in tasks.most_common()],
        "size_gb": _sizes_gb(dataset),
        "episode_s": {
            "shortest": float(lengths_s.min()),
            **{name: float(np.quantile(lengths_s, share)) for name, share in LENGTH_QUANTILES.items()},
            "longest": float(lengths_s.max()),
        },
    }


def _names(dataset: LeRobotDataset, feature: str) -> list[str] | None:
    names = dimension_names(dataset, feature)
    return None if names == [str(number) for number in range(len(names))] else names


def _role(kind: FeatureType) -> str:
    return {FeatureType.VISUAL: "camera", FeatureType.ENV: "environment state"}.get(kind, kind.value.lower())


def _sizes_gb(dataset: LeRobotDataset) -> dict[str, float]:
    """Sizes of what lies in the folders, in gigabytes, behind links too: the hub's cache is made of them."""
    sizes = dict.fromkeys(("data", "videos", "meta"), 0)
    for folder in dataset.folders:
        root = folder.metadata.root
        for part in sizes:
            places = (root / part, root / "video") if part == "videos" else (root / part,)
            for place in places:
                sizes[part] += sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    return {part: size / 1e9 for part, size in sizes.items()} | {"all": sum(sizes.values()) / 1e9}


def _title(dataset: LeRobotDataset) -> str:
    first = dataset.sources[0].name
    more = f" and {len(dataset.sources) - 1} more" if len(dataset.sources) > 1 else ""
    return Path(first).name + more


# -- contact sheet


def _contact_sheet(dataset: LeRobotDataset, camera: str) -> Image.Image:
    """Rows are episodes spread over the dataset, columns are moments spread over each."""
    places = evenly(len(dataset.episodes), SHEET_EPISODES)
    channels, height, width = next(f.shape for f in dataset.policy_features.cameras if f.name == camera)
    cell = (CELL_PX, max(1, round(CELL_PX * height / width)))
    columns = min(SHEET_TIMES, max(len(dataset.episodes[int(place)]) for place in places))
    row_px = cell[1] + CAPTION + GAP
    page_px = 2 * MARGIN + LABEL_PX + max(columns, 4) * (cell[0] + GAP) - GAP
    subtitle = (
        f"{camera}, {width} x {height} px, {dataset.fps:g} fps: {len(places)} of "
        f"{counted(len(dataset.episodes), 'episode')}"
    )
    page = Page(page_px, HEADER + MARGIN + len(places) * row_px + MARGIN // 2, _title(dataset), subtitle)
    for number, place in enumerate(places):
        episode = dataset.episodes[int(place)]
        top = HEADER + MARGIN // 2 + number * row_px
        _label(page, dataset, episode, top)
        rows = episode.start + evenly(len(episode), columns)
        pictures = _pictures(dataset, camera, rows, cell)
        for column, row in enumerate(rows):
            left = MARGIN + LABEL_PX + column * (cell[0] + GAP)
            if pictures is None:
                page.box(left, top, *cell, filled=True)
                page.write(left + cell[0] / 2, top + cell[1] / 2, "cannot be read", 12, SOFT, centred=True)
            else:
                page.paste(left, top, _coloured(pictures[column], channels))
                page.box(left, top, *cell, filled=False)
            seconds = (int(row) - episode.start) / dataset.fps
            page.write(left, top + cell[1] + 4, f"{seconds:.1f} s", 12, SOFT)
    return page.image()


def _label(page: Page, dataset: LeRobotDataset, episode: Episode, top: int) -> None:
    room = LABEL_PX - 12
    page.write(MARGIN, top, fitted(f"episode {episode.index}", 15, room), 15)
    lines = [f"{len(episode) / dataset.fps:.1f} s", counted(len(episode), "frame"), *episode.tasks[:1]]
    for number, line in enumerate(lines):
        page.write(MARGIN, top + 22 + 17 * number, fitted(line, 12, room), 12, SOFT)


def _pictures(
    dataset: LeRobotDataset, camera: str, rows: NDArray[np.int64], cell: tuple[int, int]
) -> NDArray[np.uint8] | None:
    """Pictures of some rows at the size of a cell; None if they cannot be decoded."""
    try:
        return dataset.pictures(camera, rows, (cell[1], cell[0]))
    except DatasetError:
        return None


def _coloured(picture_CHW: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """A picture as (H, W, 3)."""
    three_CHW = picture_CHW.repeat(3, axis=0) if channels == 1 else picture_CHW[:3]
    return np.ascontiguousarray(np.moveaxis(three_CHW, 0, -1))


# -- distributions


def _distributions(dataset: LeRobotDataset) -> Image.Image:
    """A histogram of each dimension of actions and states, and of the episodes' lengths."""
    order = (ACTION, STATE)
    names = sorted(vectors(dataset), key=lambda name: order.index(name) if name in order else len(order))
    groups = [HistogramGroup(_heading(dataset, name), _histograms(dataset, name)) for name in names]
    lengths_s = np.array([len(episode) for episode in dataset.episodes], np.float32) / dataset.fps
    lengths = Histogram("length", lengths_s, LENGTH_COLOUR, "length", "s", counted="episodes")
    subtitle = f"{counted(len(dataset), 'frame')}; the shaded ground holds the central 98 % of the values"
    return draw_histograms(_title(dataset), subtitle, [*groups, HistogramGroup("episodes", [lengths])])


def _heading(dataset: LeRobotDataset, feature: str) -> str:
    size = int(np.prod(dataset.features[feature].shape))
    return (
        f"{feature}, the first {MOST_DIMENSIONS} of {size} dimensions" if size > MOST_DIMENSIONS else feature
    )


def _histograms(dataset: LeRobotDataset, feature: str) -> list[Histogram]:
    values = dataset.vector(feature)
    names = dimension_names(dataset, feature)
    spread = spread_of(values[:, :MOST_DIMENSIONS])
    colour = COLOURS.get(feature, OTHER_COLOUR)
    return [
        Histogram(
            f"dimension {d}" if names[d] == str(d) else names[d],
            values[:, d],
            colour,
            marks=(float(spread.q01[d]), float(spread.q99[d])),
        )
        for d in range(len(spread.low))
    ]
