"""The page of one policy that was looked into: one HTML file with its pictures and films in it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from sweeper.report.charts import bars, columns, histogram, lines
from sweeper.report.style import STYLE
from sweeper.text import counted, describe_value
from trainables.inspection import Comparison, Inspection, Latency, Rollouts

__all__ = ["PAGE", "inspection_page"]

PAGE = "index.html"
BUSY = 0.25
"""Share of the CPUs that others use above which the latency is not that of the policy alone."""
DRAWN_DIMENSIONS = 24
"""Dimensions whose spread is drawn as a line each."""


def inspection_page(found: Inspection, folder: Path) -> str:
    """The page as HTML.

    Args:
        found: What was found; its files are put into the page.
        folder: The folder of the page, for the names of the files.
    """
    parts = [_head(found), _tiles(found)]
    if found.rollouts is not None:
        parts.append(_rollouts(found.rollouts))
    if found.comparison is not None:
        parts.append(_comparison(found.comparison))
    if found.denoising is not None:
        parts.append(_denoising(found))
    if found.latency is not None:
        parts.append(_latency(found, found.latency))
    parts.append(_about(found, folder))
    title = escape(found.label)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def _head(found: Inspection) -> str:
    step = f"step {found.step:,} · " if found.step else ""
    chips = "".join(
        f"<li{' class=changed' if name in found.changed else ''}>{escape(name.rpartition('.')[2])} "
        f"<b>{escape(describe_value(value))}</b></li>"
        for name, value in found.setting.items()
    )
    changed = '<p class="soft">Highlighted: not as in the training.</p>' if found.changed else ""
    return (
        f"<header><h1>{escape(found.label)}</h1>"
        f'<p class="soft path">{step}{escape(found.checkpoint)}</p>'
        f'<ul class="chips">{chips}</ul>{changed}</header>'
    )


def _tiles(found: Inspection) -> str:
    tiles = []
    if found.rollouts is not None:
        low, high = found.rollouts.success_interval
        count = len(found.rollouts.records)
        tiles.append(
            _tile(
                "Success",
                f"{found.rollouts.success_rate:.1%}",
                f"{low:.1%} to {high:.1%} at 95 %, {count} episodes",
            )
        )
    if found.comparison is not None:
        words = "mean absolute error, original units"
        if found.comparison.relative_in_words:
            words += f"; MSE is {found.comparison.relative_in_words}"
        tiles.append(_tile("Action error", _number(found.comparison.mae), words))
        several = sum(moments for count, moments in found.comparison.modes.items() if count > 1)
        tiles.append(
            _tile(
                "Several modes",
                f"{several / found.comparison.moments:.0%}",
                f"of {found.comparison.moments:,} moments",
            )
        )
    if found.latency is not None:
        rate = 1e3 * found.latency.executed_steps / found.latency.p95_ms
        tiles.append(
            _tile(
                "Latency, p95",
                f"{_number(found.latency.p95_ms)} ms",
                f"median {_number(found.latency.p50_ms)} ms; {rate:.0f} actions per second",
            )
        )
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    listed = f'<ul class="notes">{notes}</ul>' if notes else ""
    return f'<section class="tiles">{"".join(tiles)}</section>{listed}'


def _tile(title: str, value: str, words: str) -> str:
    return (
        f'<div class="tile"><h2>{escape(title)}</h2><p class="value">{escape(value)}</p>'
        f"<p>{escape(words)}</p></div>"
    )


def _rollouts(rollouts: Rollouts) -> str:
    ordered = sorted(rollouts.records, key=lambda record: record.max_reward)
    chart = columns(
        [(record.max_reward, record.success) for record in ordered],
        "largest reward of each episode, sorted",
    )
    rows = [
        ("Success", f"{rollouts.success_rate:.1%}", _ends(rollouts.success_interval, percent=True)),
        ("Largest reward, mean", _number(rollouts.max_reward), _ends(rollouts.max_reward_interval)),
        ("Summed reward, mean", _number(rollouts.sum_reward), _ends(rollouts.sum_reward_interval)),
        ("Length, mean", f"{_number(rollouts.length)} steps", ""),
    ]
    hard = ""
    if rollouts.hard:
        runs = rollouts.hard[0].runs
        hard = (
            "<h3>Starts that fail most</h3>"
            + _table(
                ("episode", "seed", "largest reward", f"fails again, of {runs} runs"),
                [
                    (f"#{one.episode}", str(one.seed), _number(one.max_reward), str(one.failures))
                    for one in rollouts.hard
                ],
            )
            + '<p class="soft">The failed episodes with the least largest reward. Each start was tried '
            f"{runs} more times with other noise; the run that chose the start is not counted. A start that "
            "fails every time is hard for the policy, one that succeeds now and then had bad luck.</p>"
        )
    film = "" if rollouts.film is None else _film(rollouts.film, "The starts that fail most come first.")
    return _section(
        "In the simulator",
        rollouts.environment,
        f'<div class="two"><div>{_table(("", "", "95 % interval"), rows)}{chart}'
        '<p class="soft"><span class="good">■</span> success '
        '<span class="bad">■</span> failure. Intervals: Wilson for the rate, '
        "Student's t, corrected for skewness, for means.</p>"
        "</div>"
        f"<div>{film}</div></div>{hard}",
    )


def _comparison(found: Comparison) -> str:
    kind = {"no": "fine", "unknown": "warning", "yes": "error"}[found.trained_on]
    banner = f'<p class="banner {kind}">{escape(found.provenance)}</p>'
    moments = f"{found.moments:,} moments of {len(found.episodes):,} episodes, {found.samples} chunks at each"
    if found.moments < found.wanted_moments:
        moments += f" ({found.wanted_moments:,} moments were wanted: the time was used up)"
    rows = [
        ("MSE", _number(found.mse), "squared error of the executed actions, original units squared"),
        ("MAE", _number(found.mae), "absolute error of the executed actions"),
        ("MSE of the nearest chunk", _number(found.mse_nearest), "of the chunks drawn at each moment"),
        ("Spread of the chunks", _number(found.std), "standard deviation of the chunks of one moment"),
        ("Modes", found.modes_in_words, "clusters of the chunks of one moment"),
    ]
    if found.jerk is not None:
        beside = (
            "" if found.demonstrated_jerk is None else f"demonstrated: {_number(found.demonstrated_jerk)}"
        )
        rows.append(("Jerk", _number(found.jerk), f"third difference per step; {beside}".rstrip("; ")))
    if found.step is not None and found.seam is not None:
        inside = f"a step inside a chunk: {_number(found.step)}"
        if found.demonstrated_step is not None:
            inside += f"; demonstrated: {_number(found.demonstrated_step)}"
        rows.append(("Step between chunks", _number(found.seam), inside))
    error = lines(
        {"MAE": found.mae_by_step}, "steps ahead", "mean absolute error", shaded=found.executed_steps
    )
    spread = ""
    if found.std_by_step:
        shown = found.dimensions[:DRAWN_DIMENSIONS]
        by_dimension = {name: [row[number] for row in found.std_by_step] for number, name in enumerate(shown)}
        spread = lines(
            by_dimension, "steps ahead", "standard deviation of the chunks", shaded=found.executed_steps
        )
    return _section(
        "Compared with demonstrations",
        found.dataset,
        f'{banner}<p class="soft">{escape(moments)}. Shaded: the steps that are executed.</p>'
        + _table(("", "", ""), rows)
        + f'<div class="two"><div>{error}</div><div>{spread}</div></div>'
        + "<h3>By dimension</h3>"
        + _dimensions(found)
        + "<h3>Moments with the largest errors</h3>"
        + _table(
            ("episode", "frame", "MSE"),
            [(str(one.episode), str(one.frame), _number(one.mse)) for one in found.worst],
        ),
    )


def _dimensions(found: Comparison) -> str:
    shares = [
        mse / std**2 if std else 0.0
        for mse, std in zip(found.mse_by_dimension, found.action_std_by_dimension, strict=True)
    ]
    rows = []
    for number, name in enumerate(found.dimensions):
        spread = [row[number] for row in found.std_by_step[: found.executed_steps]]
        rows.append(
            (
                name,
                _number(found.mse_by_dimension[number]),
                _number(found.mae_by_dimension[number]),
                _number(found.action_std_by_dimension[number]),
                _number(sum(spread) / len(spread)) if spread else "–",
            )
        )
    return _table(("dimension", "MSE", "MAE", "std demonstrated", "spread of the chunks"), rows) + bars(
        list(zip(found.dimensions, shares, strict=True)), "MSE as a share of the action's variance"
    )


def _denoising(found: Inspection) -> str:
    drawn = found.denoising
    assert drawn is not None
    film = "" if drawn.film is None else _film(drawn.film, "Every denoising step, then the result.")
    return _section(
        "Denoising",
        drawn.observation,
        f'<p class="soft">{drawn.samples} chunks for one observation, from noise to actions.</p>'
        '<div class="wide"><img alt="Action chunks at chosen timesteps" '
        f'src="{_data(drawn.picture, "image/png")}"></div>'
        f'<div class="film">{film}</div>',
    )


def _latency(found: Inspection, latency: Latency) -> str:
    busy = found.machine.get("busy_share")
    load = "" if busy is None else f"{busy:.0%} of {found.machine['cpus']} CPUs in use by others just before"
    rows = [
        ("Median", f"{_number(latency.p50_ms)} ms"),
        ("95th percentile", f"{_number(latency.p95_ms)} ms"),
        ("Runs", f"{len(latency.times_ms)}, after warm-up"),
        ("Device", f"{latency.device}, {counted(latency.threads, 'CPU thread')}"),
        ("Load", load),
    ]
    chart = histogram(latency.times_ms, "ms per chunk", {"p50": latency.p50_ms, "p95": latency.p95_ms})
    return _section(
        "Latency",
        "one observation, one action chunk",
        f'{_busy(busy)}<div class="two"><div>{_table(("", ""), rows)}</div><div>{chart}</div></div>',
    )


def _busy(share: float | None) -> str:
    if share is None or share <= BUSY:
        return ""
    return '<p class="banner warning">The machine was busy: on an idle one the times are shorter.</p>'


def _about(found: Inspection, folder: Path) -> str:
    versions = found.machine.get("versions", {})
    words = ", ".join(f"{name} {version}" for name, version in versions.items())
    return _section(
        "How to repeat it",
        "",
        f"<pre>{escape(found.command)}</pre>"
        f'<p class="soft">{escape(str(found.machine.get("host", "")))} · {escape(words)} · '
        f"all numbers: {escape(str(folder / 'eval.json'))}</p>",
    )


def _section(title: str, rest: str, body: str) -> str:
    beside = f' <span class="soft path">{escape(rest)}</span>' if rest else ""
    return f'<section class="card"><h2>{escape(title)}{beside}</h2>{body}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head) if any(head) else ""
    body = "".join("<tr>" + "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{titles}</tr></thead>" if titles else ""
    return f'<div class="wide"><table>{top}<tbody>{body}</tbody></table></div>'


def _film(path: Path, words: str) -> str:
    return (
        f'<video controls loop muted playsinline src="{_data(path, "video/mp4")}"></video>'
        f'<p class="soft">{escape(words)}</p>'
    )


def _data(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _ends(interval: tuple[float, float] | None, *, percent: bool = False) -> str:
    if interval is None:
        return "–"
    low, high = interval
    return f"{low:.1%} to {high:.1%}" if percent else f"{_number(low)} to {_number(high)}"


def _number(value: Any) -> str:
    return f"{value:.4g}"
