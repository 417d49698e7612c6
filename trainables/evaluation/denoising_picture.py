"""The picture of denoising: noise becomes action chunks, for one observation.

Actions of two dimensions are drawn in their plane, all others dimension by dimension over the steps ahead.

Shapes: S chunks, T horizon, A action dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from trainables.evaluation.denoising import Denoising
from trainables.evaluation.video import write_video
from trainables.files import put_in_place

__all__ = ["draw_picture", "film_denoising"]

PANELS = 5
"""Moments of the denoising that a picture shows, the result included."""
MOST_DIMENSIONS = 8
FILM_FRAMES, FILM_FPS, HOLD_S = 48, 12.0, 2.0
DPI = 100
INK, SOFT, GRID, SHADE = "#1c2733", "#5d6b7a", "#dfe5ec", "#edf1f6"
COLOURS = ("#3a7ca5", "#e07b39", "#4f9d69", "#8a6fb0", "#c0504d", "#2aa198", "#b58900", "#d33682")
"""Of the chunks, in turn."""


@dataclass(frozen=True)
class _Moving:
    """A line that shows some steps of a chunk: in the plane, or one dimension of it."""

    line: Line2D
    number: int
    steps: slice
    dimension: int | None

    def move(self, chunks_STA: NDArray[np.float64]) -> None:
        """Move the line to what the chunk is now."""
        chunk_TA = chunks_STA[self.number, self.steps]
        if self.dimension is None:
            self.line.set_data(chunk_TA[:, 0], chunk_TA[:, 1])
        else:
            self.line.set_ydata(chunk_TA[:, self.dimension])


def draw_picture(denoising: Denoising, path: Path) -> tuple[float, ...]:
    """Draw chosen timesteps side by side, the result last; writes a PNG that appears whole.

    Returns:
        The timesteps of the panels before the last.

    Raises:
        ValueError: If an action is not finite.
    """
    if not denoising.is_finite:
        raise ValueError("the actions are not finite")
    places = _places(len(denoising.timesteps), PANELS - 1)
    drawn = [(f"timestep {denoising.timesteps[place]:g}", denoising.noisy[place]) for place in places]
    drawn.append(("result", denoising.chunks))
    plane = len(denoising.dimensions) == 2
    rows = 1 if plane else min(len(denoising.dimensions), MOST_DIMENSIONS)
    figure = Figure((3 * len(drawn), 3.7 if plane else 1.2 + 1.5 * rows), DPI, facecolor="white")
    # Where all columns have the same axes, one column of numbers is enough, and half the work.
    axes = figure.subplots(
        rows, len(drawn), squeeze=False, sharex=not plane, sharey=False if plane else "row"
    )
    if plane:
        wide, near = (_plane_limits(denoising, denoising.noisy[place]) for place in (0, -1))
    for column, (title, chunks_STA) in enumerate(drawn):
        # At the scale of the noise the result would be a dot.
        enlarged = plane and column >= len(drawn) - 2
        axes[0][column].set_title(f"{title}, enlarged" if enlarged else title, fontsize=11, color=INK)
        if plane:
            _draw_plane(axes[0][column], denoising, chunks_STA, near if enlarged else wide)
            if not enlarged:
                _draw_box(axes[0][column], near)
        else:
            _draw_dimensions([row[column] for row in axes], denoising, chunks_STA)
    _label(figure, axes, denoising, plane=plane)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.writing")
    FigureCanvasAgg(figure).print_png(str(beside))
    put_in_place(beside, path)
    return tuple(denoising.timesteps[place] for place in places)


def film_denoising(denoising: Denoising, path: Path) -> None:
    """Film every denoising step, or some of many; the result stays for a moment.

    Raises:
        ValueError: If an action is not finite.
    """
    if not denoising.is_finite:
        raise ValueError("the actions are not finite")
    write_video(_frames(denoising), path, FILM_FPS)


def _frames(denoising: Denoising) -> Iterator[NDArray[np.uint8]]:
    plane = len(denoising.dimensions) == 2
    rows = 1 if plane else min(len(denoising.dimensions), MOST_DIMENSIONS)
    figure = Figure((4.8, 4.8) if plane else (6.0, 0.9 + 1.5 * rows), DPI, facecolor="white")
    axes = figure.subplots(rows, 1, squeeze=False)
    canvas = FigureCanvasAgg(figure)
    places = _places(len(denoising.timesteps), FILM_FRAMES)
    shown = [(f"timestep {denoising.timesteps[place]:g}", denoising.noisy[place]) for place in places]
    shown.append(("result", denoising.chunks))
    title = axes[0][0].set_title(shown[0][0], fontsize=12, color=INK)
    if plane:
        moving = _draw_plane(axes[0][0], denoising, shown[0][1], _plane_limits(denoising, shown[0][1]))
    else:
        moving = _draw_dimensions([row[0] for row in axes], denoising, shown[0][1])
    _label(figure, axes, denoising, plane=plane)
    # Axes and texts are laid out once. In the plane the scale changes with every frame; otherwise only the
    # lines and the title do, and the rest is drawn once.
    artists = [*(one.line for one in moving), title]
    for artist in artists:
        artist.set_animated(not plane)
    canvas.draw()
    ground = canvas.copy_from_bbox(figure.bbox)
    frame = np.zeros((1, 1, 3), np.uint8)
    for words, chunks_STA in shown:
        title.set_text(words)
        for one in moving:
            one.move(chunks_STA)
        if plane:
            limits = _plane_limits(denoising, chunks_STA)
            axes[0][0].set(xlim=limits[0], ylim=limits[1])
            canvas.draw()
        else:
            canvas.restore_region(ground)
            for artist in artists:
                artist.axes.draw_artist(artist)
        frame = np.array(canvas.buffer_rgba())[..., :3]
        for _ in range(max(1, FILM_FRAMES // len(shown))):
            yield frame
    for _ in range(round(HOLD_S * FILM_FPS)):
        yield frame


def _places(count: int, most: int) -> list[int]:
    """Places among so many denoising steps, evenly spaced, the first among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place) for place in np.linspace(0, count - 1, most)})


def _plane_limits(denoising: Denoising, shown_STA: NDArray[np.float64]) -> NDArray[np.float64]:
    """((low, high), (low, high)) of both dimensions, equally wide, in which chunks and result can be seen."""
    shown = shown_STA[:, denoising.current :].reshape(-1, 2)
    # Noise reaches far; of its tails a hundredth is left out on each side.
    seen = [denoising.chunks[:, denoising.current :].reshape(-1, 2), np.quantile(shown, [0.01, 0.99], axis=0)]
    if denoising.demonstrated is not None:
        seen.append(denoising.demonstrated[denoising.current :])
    points = np.concatenate(seen)
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.55 * max(float((high - low).max()), 1e-6)
    centre = (low + high) / 2
    return np.stack([centre - half, centre + half], axis=1)


def _draw_box(axes: Any, limits: NDArray[np.float64]) -> None:
    """Mark what is enlarged elsewhere."""
    (left, right), (low, high) = limits.tolist()
    axes.add_patch(
        Rectangle(
            (left, low), right - left, high - low, facecolor="none", edgecolor=SOFT, linewidth=0.8, zorder=6
        )
    )


def _draw_plane(
    axes: Any, denoising: Denoising, chunks_STA: NDArray[np.float64], limits: NDArray[np.float64]
) -> list[_Moving]:
    start, end = denoising.current, denoising.current + denoising.executed
    if denoising.demonstrated is not None:
        axes.plot(*denoising.demonstrated[start:].T, color=INK, linestyle="--", linewidth=1.6, zorder=5)
    moving = []
    for number, chunk_TA in enumerate(chunks_STA):
        colour = COLOURS[number % len(COLOURS)]
        (rest,) = axes.plot(*chunk_TA[end - 1 :].T, color=colour, linewidth=0.8, alpha=0.45)
        (done,) = axes.plot(
            *chunk_TA[start:end].T, color=colour, linewidth=1.6, alpha=0.9, marker="o", markersize=2.2
        )
        moving += [
            _Moving(rest, number, slice(end - 1, None), None),
            _Moving(done, number, slice(start, end), None),
        ]
    axes.set(xlim=limits[0], ylim=limits[1], aspect="equal")
    axes.set_xlabel(denoising.dimensions[0], fontsize=9, color=SOFT)
    _tidy(axes)
    return moving


def _draw_dimensions(
    axes: Sequence[Any], denoising: Denoising, chunks_STA: NDArray[np.float64]
) -> list[_Moving]:
    ahead_T = np.arange(chunks_STA.shape[1]) - denoising.current
    moving = []
    for dimension, field in enumerate(axes):
        field.axvspan(-0.5, denoising.executed - 0.5, facecolor=SHADE, edgecolor="none")
        seen = [denoising.chunks[..., dimension].ravel()]
        seen.append(np.quantile(denoising.noisy[0][..., dimension], [0.01, 0.99]))
        if denoising.demonstrated is not None:
            shown_T = denoising.demonstrated[:, dimension]
            field.plot(ahead_T, shown_T, color=INK, linestyle="--", linewidth=1.6, zorder=5)
            seen.append(shown_T)
        for number, chunk_TA in enumerate(chunks_STA):
            colour = COLOURS[number % len(COLOURS)]
            (line,) = field.plot(ahead_T, chunk_TA[:, dimension], color=colour, linewidth=1.1, alpha=0.85)
            moving.append(_Moving(line, number, slice(None), dimension))
        values = np.concatenate(seen)
        room = 0.05 * max(float(np.ptp(values)), 1e-6)
        field.set(xlim=(ahead_T[0], ahead_T[-1]), ylim=(values.min() - room, values.max() + room))
        _tidy(field)
    return moving


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=SOFT)
    axes.tick_params(colors=SOFT, labelsize=8)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def _label(figure: Figure, axes: Any, denoising: Denoising, *, plane: bool) -> None:
    if plane:
        axes[0][0].set_ylabel(denoising.dimensions[1], fontsize=9, color=SOFT)
    else:
        for dimension, row in enumerate(axes):
            row[0].set_ylabel(denoising.dimensions[dimension], fontsize=9, color=SOFT)
        for field in axes[-1]:
            field.set_xlabel("steps ahead", fontsize=9, color=SOFT)
    handles = [
        Line2D([], [], color=COLOURS[0], linewidth=1.8, label="executed" if plane else "predicted"),
        *(
            [Line2D([], [], color=COLOURS[0], linewidth=0.8, alpha=0.6, label="predicted, not executed")]
            if plane
            else []
        ),
        *([] if plane else [Patch(facecolor=SHADE, label="executed")]),
        *(
            []
            if denoising.demonstrated is None
            else [Line2D([], [], color=INK, linestyle="--", linewidth=1.6, label="demonstrated")]
        ),
    ]
    figure.tight_layout(pad=0.8, rect=(0, 0.36 / figure.get_figheight(), 1, 1))
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=9, labelcolor=SOFT
    )
