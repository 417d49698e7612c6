"""Small charts as SVG that take their colours from the page, so that they fit light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bars", "columns", "histogram", "lines"]

WIDTH, HEIGHT = 440, 230
LEFT, RIGHT, TOP, BOTTOM = 52, 10, 24, 40
SERIES = 8
"""Colours that the page has for series."""
BINS = 30
LABEL = 22
"""Letters of a bar's label that have room."""


def lines(series: Mapping[str, Sequence[float]], across: str, title: str, *, shaded: int = 0) -> str:
    """Lines over 0, 1, 2, ...; the first ``shaded`` places have another ground."""
    longest = max((len(values) for values in series.values()), default=0)
    if not longest:
        return ""
    top = max(max(values) for values in series.values()) or 1.0
    x = _scale(0, max(longest - 1, 1), LEFT, WIDTH - RIGHT)
    y = _scale(0, top, HEIGHT - BOTTOM, TOP)
    parts = []
    if shaded:
        end = min(x(max(shaded - 0.5, 0.5)), WIDTH - RIGHT)
        parts.append(_rect(LEFT, TOP, end - LEFT, HEIGHT - BOTTOM - TOP, "shade"))
    parts += _frame(x, y, range(0, longest, max(1, math.ceil(longest / 8))), _ticks(top), across, title)
    for number, (name, values) in enumerate(series.items()):
        colour = f"var(--series-{number % SERIES})"
        points = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(values))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2">'
            f"<title>{escape(name)}</title></polyline>"
        )
        parts += [
            f'<circle cx="{x(place):.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}">'
            f"<title>{escape(name)}, {place}: {value:.4g}</title></circle>"
            for place, value in enumerate(values)
        ]
    return _svg(parts, title) + _legend(list(series))


def columns(values: Sequence[tuple[float, bool]], title: str) -> str:
    """A column for each value, coloured by whether it is good."""
    if not values:
        return ""
    top = max(*(value for value, _ in values), 0.0) or 1.0
    least = min(*(value for value, _ in values), 0.0)
    y = _scale(least, top, HEIGHT - BOTTOM, TOP)
    width = (WIDTH - LEFT - RIGHT) / len(values)
    parts = _frame(None, y, (), _ticks(top, least), "episodes", title)
    for number, (value, good) in enumerate(values):
        height = abs(y(value) - y(0.0))
        parts.append(
            f'<rect x="{LEFT + number * width:.2f}" y="{min(y(value), y(0.0)):.2f}" '
            f'width="{max(width * 0.86, 0.5):.2f}" height="{max(height, 1):.2f}" '
            f'fill="var(--{"good" if good else "bad"})"><title>{value:.4g}</title></rect>'
        )
    return _svg(parts, title)


def histogram(values: Sequence[float], across: str, marks: Mapping[str, float]) -> str:
    """How often values fall between evenly spaced bounds, with marks at some values."""
    low, high = min(values), max(values)
    room = (high - low) or max(abs(high), 1.0) * 0.1
    low, high = low - 0.02 * room, high + 0.02 * room
    counts = [0] * BINS
    for value in values:
        counts[min(int((value - low) / (high - low) * BINS), BINS - 1)] += 1
    top = max(counts)
    x, y = _scale(low, high, LEFT, WIDTH - RIGHT), _scale(0, top, HEIGHT - BOTTOM, TOP)
    places = [tick for tick in _ticks(high, low) if low <= tick <= high]
    parts = _frame(x, y, places, sorted({round(tick) for tick in _ticks(top)}), across, "runs")
    width = (WIDTH - LEFT - RIGHT) / BINS
    for number, count in enumerate(counts):
        if count:
            parts.append(
                f'<rect x="{LEFT + number * width:.2f}" y="{y(count):.2f}" width="{width * 0.9:.2f}" '
                f'height="{HEIGHT - BOTTOM - y(count):.2f}" fill="var(--series-0)"></rect>'
            )
    for place, (name, value) in enumerate(marks.items()):
        parts.append(
            f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" '
            'stroke="var(--series-1)" stroke-width="1.5" stroke-dasharray="4 3"></line>'
        )
        # Marks that are near each other are written one below the other.
        anchor = "end" if x(value) > WIDTH - 60 else "start"
        parts.append(_text(x(value) + (4 if anchor == "start" else -4), TOP + 12 + 14 * place, name, anchor))
    return _svg(parts, across)


def bars(values: Sequence[tuple[str, float]], title: str) -> str:
    """A bar for each named value, from the left."""
    if not values:
        return ""
    left, row = 150, 20
    top = max(max(value for _, value in values), 1e-12)
    height = TOP + row * len(values) + 8
    x = _scale(0, top, left, WIDTH - 64)
    parts = [_text(0, 12, title, "start")]
    for number, (name, value) in enumerate(values):
        y = TOP + row * number
        short = name if len(name) <= LABEL else f"{name[: LABEL - 1]}…"
        parts.append(_text(left - 8, y + 13, short, "end"))
        parts.append(
            f'<rect x="{left}" y="{y + 3}" width="{max(x(value) - left, 1):.1f}" height="{row - 7}" '
            f'fill="var(--series-0)"><title>{escape(name)}: {value:.4g}</title></rect>'
        )
        parts.append(_text(max(x(value), left + 1) + 6, y + 13, f"{value:.3g}", "start"))
    return _svg(parts, title, height)


class _Scale:
    """From values to places on the page."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.start = low, start
        self.slope = (end - start) / ((high - low) or 1.0)

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) * self.slope


def _scale(low: float, high: float, start: float, end: float) -> _Scale:
    return _Scale(low, high, start, end)


def _ticks(high: float, low: float = 0.0) -> list[float]:
    """About five round numbers between two."""
    raw = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _frame(
    x: _Scale | None, y: _Scale, across: Sequence[float], up: Sequence[float], below: str, title: str
) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [_text(0, 12, title, "start")]
    for value in up:
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text(LEFT - 6, y(value) + 4, f"{value:.4g}", "end"))
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    if x is not None:
        parts += [_text(x(value), bottom + 16, f"{value:.4g}", "middle") for value in across]
    parts.append(_text((LEFT + right) / 2, HEIGHT - 6, below, "middle"))
    return parts


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"></rect>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    shown = "".join(
        f'<span style="color:var(--series-{number % SERIES})">■</span> {escape(name)} &nbsp;'
        for number, name in enumerate(names)
    )
    return f'<p class="soft">{shown}</p>'


def _svg(parts: Sequence[str], title: str, height: float = HEIGHT) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )
