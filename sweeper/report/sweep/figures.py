"""The figures of a report, as plotly draws them: Optuna's own if it has them.

Colours of texts, axes and backgrounds are set by the page, which follows the reader's light or dark mode. The
colours here are legible on both.
"""

from __future__ import annotations

import ast
import contextlib
import html
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import plotly.graph_objects as go
from optuna import visualization

from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.report.sweep.standings import SUCCESS, Standing
from sweeper.text import describe_value, value_text

__all__ = [
    "Figure",
    "front_figure",
    "history_figure",
    "importance_figure",
    "learning_figure",
    "parallel_figure",
    "pareto_figure",
    "ranking_figure",
    "settings_figure",
    "slice_figures",
]

BLUE, ORANGE, GREY, GREEN = "#3b82c4", "#d97b29", "#8a8f98", "#2f9e6e"
SCALE = [[0.0, "#d9a441"], [0.5, "#7f9d8c"], [1.0, "#2f74c0"]]
"""From early to late. No end is near white or black."""
PARALLEL_SCALE = ("#d9a441", "#c3a355", "#a0a072", "#7f9d8c", "#5b8fa4", "#2f74c0")
"""From bad to good."""
MOST_RANKED = 30
MOST_LINES = 60
MOST_SLICES = 12
HIGHLIGHTED = 5
OTHERS_RANK = 1001
"""Plotly's place in the legend: behind the highlighted trials, which have 1000, though drawn before them."""
PALETTE = (GREEN, BLUE, ORANGE, "#a05fc4", "#c4515f")


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        json: What plotly draws.
        height: In pixels.
        least_width: In pixels; on a narrower screen it scrolls sideways.
        description: What it shows, for those who cannot see it.
    """

    json: str
    height: int
    least_width: int
    description: str


def _figure(made: Any, description: str, height: int = 360, least_width: int = 0, **layout: Any) -> Figure:
    """A figure without title, template and size: the page decides them."""
    made.update_layout(
        title=None,
        template={},
        plot_bgcolor=None,
        paper_bgcolor=None,
        width=None,
        height=height,
        margin={"l": 56, "r": 16, "t": 24, "b": 48, **layout.pop("margin", {})},
        **layout,
    )
    # `<` may end the script element that contains the figure.
    text = made.to_json().replace("<", "\\u003c")
    return Figure(text, height, least_width, description)


def _named(name: str) -> str:
    """A name as plotly shows it: plotly interprets a few elements of HTML in texts."""
    return html.escape(name, quote=False)


def _axis(metric: str) -> dict[str, Any]:
    """The axis of a metric; a rate of success is in percent."""
    percent = {"tickformat": ".0%"} if metric == SUCCESS else {}
    return {"title": {"text": _named(metric)}, **percent}


def ranking_figure(standings: Sequence[Standing], name: str) -> Figure:
    """The values of the best trials with their intervals; those that may be the best stand out."""
    shown = list(standings[:MOST_RANKED])
    made = go.Figure()
    groups = (
        ("best", GREEN, [one for one in shown if one.leads]),
        ("not told apart from the best", ORANGE, [one for one in shown if _open(one)]),
        ("worse", GREY, [one for one in shown if not one.leads and one.told_apart]),
        ("other", BLUE, [one for one in shown if not one.leads and one.told_apart is None]),
    )
    for label, colour, group in groups:
        if not group:
            continue
        known = all(one.low is not None and one.high is not None for one in group)
        error = (
            {
                "type": "data",
                "symmetric": False,
                "array": [(one.high or one.value) - one.value for one in group],
                "arrayminus": [one.value - (one.low or 0.0) for one in group],
                "thickness": 2,
                "width": 0,
                "color": colour,
            }
            if known
            else None
        )
        made.add_scatter(
            x=[one.value for one in group],
            y=[f"trial {one.trial.number}" for one in group],
            error_x=error,
            mode="markers",
            name=label,
            marker={"color": colour, "size": 9},
        )
    order = [f"trial {one.trial.number}" for one in shown]
    return _figure(
        made,
        f"Values of the best {len(shown)} trials with 95 % intervals.",
        height=90 + 22 * len(shown),
        yaxis={"categoryorder": "array", "categoryarray": order[::-1], "automargin": True, "dtick": 1},
        xaxis=_axis(name),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
        showlegend=True,
    )


def _open(one: Standing) -> bool:
    return not one.leads and one.told_apart is False


def importance_figure(shares: Mapping[str, float]) -> Figure:
    """The importance of each parameter."""
    names, values = list(shares)[::-1], list(shares.values())[::-1]
    made = go.Figure(
        go.Bar(
            x=values,
            y=[_named(name) for name in names],
            orientation="h",
            marker={"color": BLUE},
            text=[f"{100 * value:.0f} %" for value in values],
            textposition="outside",
            cliponaxis=False,
        )
    )
    return _figure(
        made,
        "Importance of each parameter (PED-ANOVA).",
        height=80 + 28 * len(names),
        yaxis={"automargin": True, "dtick": 1, "ticksuffix": "  "},
        xaxis={"range": [0, 1.12 * max(values)], "tickformat": ".0%"},
    )


def slice_figures(study: optuna.Study, names: Sequence[str], label: str) -> dict[str, Figure]:
    """For each parameter the values of the trials over it, by its name in the study."""
    found = {}
    for name in names[:MOST_SLICES]:
        made = _optuna(visualization.plot_slice, study, params=[name], target_name=_named(label))
        if made is None:
            continue
        made.update_traces(marker={"colorscale": SCALE, "showscale": False, "line": {"width": 0}})
        made.update_xaxes(title={"text": _named(name)}, exponentformat="e")
        made.update_yaxes(**_axis(label))
        if made.layout.xaxis.type == "log":
            made.update_xaxes(**_log_ticks([x for trace in made.data for x in trace.x]))
        else:
            _write_categories(made)
        found[name] = _figure(made, f"Values of the trials over {name}.", height=260)
    return found


def _log_ticks(values: Sequence[float]) -> dict[str, Any]:
    """Where a logarithmic axis has numbers: plotly's has none if its values are within one decade."""
    low, high = min(values), max(values)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if sum(low <= 10.0**power <= high for power in decades) > 1:
        return {"dtick": 1}
    between = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    inside = [value for value in between if low <= value <= high]
    ticks = inside if len(inside) > 1 else list(dict.fromkeys((low, high)))
    return {"tickvals": ticks, "ticktext": [f"{value:.3g}" for value in ticks]}


def _write_categories(made: go.Figure) -> None:
    """Categories as a space file has them; Optuna shows how Python writes them."""
    for trace in made.data:
        trace.x = [_category(x) for x in trace.x]
    categories = made.layout.xaxis.categoryarray
    if categories is not None:
        made.update_xaxes(categoryarray=[_category(category) for category in categories])


def _category(shown: Any) -> Any:
    with contextlib.suppress(ValueError, SyntaxError):
        return describe_value(ast.literal_eval(shown)) if isinstance(shown, str) else shown
    return shown


def parallel_figure(study: optuna.Study, names: Sequence[str], label: str) -> Figure | None:
    """Every completed trial as a line through its values, the best on top.

    Optuna draws a trace for each trial. Hundreds of traces are slow and cannot be hovered, so many trials of
    similar value share one.
    """
    made = _optuna(
        visualization.plot_parallel_coordinate, study, params=list(names) or None, target_name=_named(label)
    )
    if made is None:
        return None
    lines = [trace for trace in made.data if trace.mode == "lines"]
    minimized = study.directions[0] == optuna.study.StudyDirection.MINIMIZE
    groups: list[list[Any]] = [[] for _ in PARALLEL_SCALE]
    for line in lines:
        # The first axis is the objective, from 0 to 1.
        good = 1 - line.y[0] if minimized else line.y[0]
        groups[min(int(good * len(groups)), len(groups) - 1)].append(line)
    drawn = go.Figure(layout=made.layout)
    for colour, group in zip(PARALLEL_SCALE, groups, strict=True):
        style = {
            "mode": "lines",
            "line": {"color": colour, "width": 1.5},
            "opacity": 0.65,
            "showlegend": False,
        }
        if len(lines) <= MOST_LINES:
            for line in group:
                drawn.add_scatter(
                    x=line.x, y=line.y, customdata=line.customdata, hovertemplate=line.hovertemplate, **style
                )
        elif group:
            x = [at for line in group for at in (*line.x, None)]
            y = [at for line in group for at in (*line.y, None)]
            drawn.add_scatter(x=x, y=y, hoverinfo="skip", **style)
    drawn.update_annotations(font={"color": None, "size": 11})
    return _figure(
        drawn,
        "Every completed trial as a line through its parameters.",
        height=420,
        least_width=150 * (len(names) + 1),
        margin={"l": 70, "r": 40},
    )


def history_figure(study: optuna.Study, label: str) -> Figure | None:
    """The value of each trial in the order of the search, and the best so far."""
    made = _optuna(visualization.plot_optimization_history, study, target_name=_named(label))
    if made is None:
        return None
    for trace, colour in zip(made.data, (BLUE, ORANGE), strict=False):
        trace.update(marker={"color": colour}, line={"color": colour})
    made.update_yaxes(**_axis(label))
    return _figure(
        made,
        "The value of each trial in the order of the search.",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
    )


def pareto_figure(study: optuna.Study, labels: Sequence[str]) -> Figure | None:
    """The trials by two or three objectives, those that no other dominates in another colour."""
    if len(labels) not in (2, 3):
        return None
    made = _optuna(visualization.plot_pareto_front, study, target_names=[_named(label) for label in labels])
    if made is None:
        return None
    for trace, colour in zip(made.data, (GREY, ORANGE), strict=False):
        trace.update(marker={"color": colour, "colorscale": None, "showscale": False, "line": {"width": 0}})
    return _figure(
        made,
        "The trials by their objectives; the front stands out.",
        height=420,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
    )


def learning_figure(sweep: SweepState, metric: str, best: Sequence[int]) -> Figure | None:
    """A metric over the steps. The best trials have colours, all others share one grey line.

    Optuna's figure has a legend of all trials, which is not legible with a thousand of them.
    """
    series = {
        number: trial.series[metric]
        for number, trial in sweep.trials.items()
        if metric in trial.series and trial.status != TrialStatus.FAILED
    }
    best = [number for number in best if number in series][:HIGHLIGHTED]
    x: list[int | None] = []
    y: list[float | None] = []
    for number, points in series.items():
        if number not in best:
            x += [*(step for step, _ in points), None]
            y += [*(value for _, value in points), None]
    made = go.Figure()
    if x:
        made.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name="others",
            legendrank=OTHERS_RANK,
            line={"color": GREY, "width": 1},
            opacity=0.5,
            hoverinfo="skip",
        )
    for number, colour in zip(best, PALETTE, strict=False):
        made.add_scatter(
            x=[step for step, _ in series[number]],
            y=[value for _, value in series[number]],
            mode="lines+markers",
            name=f"trial {number}",
            line={"color": colour, "width": 2},
        )
    if not made.data:
        return None
    return _figure(
        made,
        f"{metric} over the optimiser steps.",
        xaxis={"title": {"text": "optimiser step"}},
        yaxis=_axis(metric),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"t": 60},
        showlegend=True,
    )


def front_figure(standings: Sequence[Standing], label: str) -> Figure | None:
    """The value of each completed trial against the latency of its policy."""
    latency = "eval/chunk_latency_ms"
    shown = [one for one in standings if latency in one.trial.metrics]
    if len(shown) < 2:
        return None
    made = go.Figure(
        go.Scatter(
            x=[one.trial.metrics[latency] for one in shown],
            y=[one.value for one in shown],
            mode="markers",
            text=[f"trial {one.trial.number}" for one in shown],
            marker={
                "color": [GREEN if one.leads else ORANGE if _open(one) else GREY for one in shown],
                "size": [11 if one.leads else 7 for one in shown],
                "line": {"width": 0},
            },
        )
    )
    return _figure(
        made,
        "Value of each completed trial against its latency.",
        xaxis={"title": {"text": "time of an action chunk in ms"}, "rangemode": "tozero"},
        yaxis=_axis(label),
    )


def settings_figure(
    tried: Sequence[Mapping[str, Any]], names: Mapping[str, str], label: str
) -> Figure | None:
    """The inference settings of a trial: value against latency, the front as a line."""
    shown = [one for one in tried if _number(one.get("value")) and _number(one.get("latency_ms"))]
    if len(shown) < 2:
        return None
    front = sorted((one for one in shown if one.get("front")), key=lambda one: one["latency_ms"])
    made = go.Figure()
    made.add_scatter(
        x=[one["latency_ms"] for one in front],
        y=[one["value"] for one in front],
        mode="lines",
        name="front",
        line={"color": ORANGE, "dash": "dot"},
        hoverinfo="skip",
    )
    for chosen, colour in ((False, GREY), (True, GREEN)):
        group = [one for one in shown if (one.get("state") == "chosen") == chosen]
        made.add_scatter(
            x=[one["latency_ms"] for one in group],
            y=[one["value"] for one in group],
            mode="markers",
            name="chosen" if chosen else "examined",
            text=[_setting_words(one, names) for one in group],
            marker={"color": colour, "size": 10 if chosen else 7},
        )
    return _figure(
        made,
        "Inference settings: value against latency.",
        xaxis={"title": {"text": "time of an action chunk in ms"}},
        yaxis=_axis(label),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
    )


def _setting_words(one: Mapping[str, Any], names: Mapping[str, str]) -> str:
    setting = one.get("setting") or {}
    words = [f"{names.get(name, name)} {value_text(value)}" for name, value in setting.items()]
    return _named(", ".join(words) or "as trained")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _optuna(draw: Any, study: optuna.Study, **options: Any) -> Any:
    """A figure of Optuna; None if it has too few trials for it."""
    if len(study.directions) > 1 and "target_names" not in options:
        options["target"] = lambda trial: trial.values[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = draw(study, **options)
        except (ValueError, RuntimeError):
            return None
    return made if made.data else None
