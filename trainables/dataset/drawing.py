"""Pages with text, pictures and histograms, drawn by matplotlib without a display. Knows numbers, no dataset.

The same numbers give the same pixels: the typeface comes with matplotlib, and sizes and colours are set here.
Nothing is kept between pages, so threads can draw at the same time.
"""

from __future__ import annotations

import math
import re
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray
from PIL import Image

__all__ = [
    "HEADER",
    "INK",
    "MARGIN",
    "SOFT",
    "Histogram",
    "HistogramGroup",
    "Page",
    "draw_histograms",
    "fitted",
    "plain_name",
    "save_page",
]

PAPER, INK, SOFT, FAINT, SHADE = "#ffffff", "#1c2733", "#5d6b7a", "#dfe5ec", "#f1f4f8"
DPI = 72
"""At 72 dots per inch a point is a pixel: all sizes here are in px."""
TYPEFACE = "DejaVu Sans"
MARGIN = 36
TITLE, HEADING, SUBTITLE, TEXT, SMALL = 24, 18, 14, 13, 12
HEADER = 84
"""Height of a page's title and the line below it."""
BINS = 48
PANEL, PANEL_GAP, HEADING_PX = (300, 216), (28, 20), 42
LEFT, RIGHT, TOP, BOTTOM = 60, 8, 46, 46
"""Room around a histogram's field for its axes and its name."""
ABREAST = (4, 3, 5)
"""Numbers of histograms in a row, best first."""


@dataclass(frozen=True)
class Histogram:
    """The values of one dimension.

    Attributes:
        name: What it is called.
        values: Its values; those that are not finite are left out.
        colour: Colour of the bars.
        label: Label of the axis of the values.
        unit: Unit of the values, if it is known.
        marks: Values between which most lie, shaded; or None.
        counted: What a bar counts, e.g. ``frames``.
    """

    name: str
    values: NDArray[np.float32]
    colour: str
    label: str = "recorded value"
    unit: str = ""
    marks: tuple[float, float] | None = None
    counted: str = "frames"


@dataclass(frozen=True)
class HistogramGroup:
    """Histograms below one heading."""

    heading: str
    histograms: Sequence[Histogram]


class Page:
    """A page with a title; what is drawn on it starts ``HEADER`` px from the top.

    Places are in px from the top left corner.
    """

    def __init__(self, width: int, height: int, title: str, subtitle: str) -> None:
        self.width, self.height = width, height
        self._figure = Figure((width / DPI, height / DPI), DPI, facecolor=PAPER)
        self._canvas = FigureCanvasAgg(self._figure)
        room = width - 2 * MARGIN
        self.write(MARGIN, 26, fitted(title, TITLE, room), TITLE)
        self.write(MARGIN, 60, fitted(subtitle, SUBTITLE, room), SUBTITLE, SOFT)

    def write(
        self, x: float, y: float, text: str, size: int, colour: str = INK, *, centred: bool = False
    ) -> None:
        """Write a line of text below and to the right of a place, or centred on it."""
        across, down = ("center", "center") if centred else ("left", "top")
        self._figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontproperties=_font(size),
            color=colour,
            ha=across,
            va=down,
            parse_math=False,
        )

    def rule(self, y: float) -> None:
        """Draw a faint line from margin to margin."""
        self.box(MARGIN, y, self.width - 2 * MARGIN, 1, filled=True)

    def box(self, x: float, y: float, width: float, height: float, *, filled: bool) -> None:
        """Draw a faint rectangle, or one px wide lines around the place of one."""
        # Lines are centred on their path: half a px further out, they fill the pixels around the place.
        out = 0 if filled else 0.5
        self._figure.add_artist(
            Rectangle(
                (x - out, self.height - y - height - out),
                width + 2 * out,
                height + 2 * out,
                facecolor=FAINT if filled else "none",
                edgecolor="none" if filled else FAINT,
                linewidth=1,
                transform=None,
                snap=False,
            )
        )

    def paste(self, x: int, y: int, picture_HWC: NDArray[np.uint8]) -> None:
        """Put a picture on the page, pixel by pixel; it hides what is drawn below it."""
        self._figure.figimage(picture_HWC, x, self.height - y - picture_HWC.shape[0], origin="upper")

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        """Axes whose field fills a box, with ticks and numbers on the left and below."""
        axes = self._figure.add_axes(
            (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height),
            facecolor="none",
        )
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set(color=SOFT, linewidth=1)
        axes.tick_params(colors=SOFT, labelsize=SMALL, labelfontfamily=TYPEFACE, length=4, width=1, pad=4)
        return axes

    def image(self) -> Image.Image:
        """The page as it is drawn."""
        self._canvas.draw()
        return Image.fromarray(np.array(self._canvas.buffer_rgba())).convert("RGB")


@cache
def _font(size: int) -> FontProperties:
    return FontProperties(family=TYPEFACE, size=size)


@cache
def _letters() -> frozenset[int]:
    """What the typeface can write."""
    return frozenset(get_font(findfont(_font(TEXT))).get_charmap())


def fitted(text: str, size: int, room: float) -> str:
    """The text on one line; if it is wider than ``room`` px, without its middle.

    Letters that the typeface lacks become ``?``.
    """
    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()

    def shortened(kept: int) -> str:
        if kept >= len(text):
            return text
        head = (kept + 1) // 2
        return f"{text[:head].rstrip()}…{text[len(text) - kept + head :].lstrip()}"

    def too_wide(kept: int) -> bool:
        width, _, _ = renderer.get_text_width_height_descent(shortened(kept), _font(size), False)
        return bool(width > room)

    text = "".join(letter if ord(letter) in _letters() else "?" for letter in " ".join(text.split()))
    return shortened(max(0, bisect(range(len(text) + 1), False, key=too_wide) - 1))


def plain_name(name: str) -> str:
    """A name without characters that files should not have."""
    return re.sub(r"[^\w.-]", "_", name)


def save_page(page: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all."""
    building = path.with_name(f".{path.name}.building")
    page.save(building, "PNG")
    building.replace(path)
    return path


def draw_histograms(title: str, subtitle: str, groups: Sequence[HistogramGroup]) -> Image.Image:
    """Draw a page of histograms, a heading above each group."""
    abreast = _abreast([len(group.histograms) for group in groups])
    rows = [math.ceil(len(group.histograms) / abreast) for group in groups]
    across_px, down_px = (panel + gap for panel, gap in zip(PANEL, PANEL_GAP, strict=True))
    page = Page(
        2 * MARGIN + max(abreast, 2) * across_px - PANEL_GAP[0],
        HEADER + MARGIN + len(groups) * HEADING_PX + sum(rows) * down_px,
        title,
        subtitle,
    )
    top = HEADER + MARGIN // 2
    for group, deep in zip(groups, rows, strict=True):
        page.write(MARGIN, top, fitted(group.heading, HEADING, page.width - 2 * MARGIN), HEADING)
        page.rule(top + 27)
        top += HEADING_PX
        for number, histogram in enumerate(group.histograms):
            down, across = divmod(number, abreast)
            _draw(page, MARGIN + across * across_px, top + down * down_px, histogram)
        top += deep * down_px
    return page.image()


def _abreast(sizes: Sequence[int]) -> int:
    """How many histograms a row has: as many as leave the fewest places empty."""
    widest = max(sizes)
    if widest <= max(ABREAST):
        return widest
    # A single histogram leaves the rest of its row empty, whatever the row is.
    return min(ABREAST, key=lambda abreast: sum(-size % abreast for size in sizes if size > 1))


def _draw(page: Page, x: int, y: int, histogram: Histogram) -> None:
    """Draw a histogram with its name, its range and its axes into a panel."""
    width, height = PANEL
    values = histogram.values[np.isfinite(histogram.values)]
    page.write(x, y, fitted(histogram.name, SUBTITLE, width), SUBTITLE)
    if not len(values):
        page.write(x, y + 21, "no finite values", TEXT, SOFT)
        return
    low, high = float(values.min()), float(values.max())
    said = f"always {low:.5g}" if low == high else f"{low:.5g} to {high:.5g}"
    page.write(x, y + 21, f"{said} {histogram.unit}".rstrip().replace("-", "−"), TEXT, SOFT)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values.astype(np.float64), BINS, (low, high))
    shares = counts / len(values)
    field = (width - LEFT - RIGHT, height - TOP - BOTTOM)
    axes = page.axes(x + LEFT, y + TOP, *field)
    if histogram.marks is not None:
        axes.axvspan(*histogram.marks, facecolor=SHADE, edgecolor="none")
    # What occurs at all is seen, be it a single frame.
    seen = np.where(counts > 0, np.maximum(shares, shares.max() / field[1]), 0)
    axes.stairs(seen, edges, fill=True, color=histogram.colour, antialiased=False)
    axes.set(xlim=(low, high), ylim=(0, shares.max()))
    unit = f" ({histogram.unit})" if histogram.unit else ""
    axes.set_xlabel(f"{histogram.label}{unit}", fontproperties=_font(SMALL), color=SOFT, labelpad=3)
    axes.set_ylabel(f"share of {histogram.counted}", fontproperties=_font(SMALL), color=SOFT, labelpad=4)
    axes.yaxis.set_label_coords(-46 / field[0], 0.5)
    numbers = ScalarFormatter(useOffset=True)
    numbers.set_powerlimits((-3, 5))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(numbers)
    axes.xaxis.get_offset_text().set(fontproperties=_font(SMALL), color=SOFT)
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
