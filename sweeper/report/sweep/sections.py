"""The parts of a report below its first screen."""

from __future__ import annotations

import json
import math
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from sweeper.machines.identity import FIELDS, SEARCHED, data_of_all
from sweeper.records.events import winner_of
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.report.markup import Child, Html, join, table, tag
from sweeper.report.sweep import figures
from sweeper.report.sweep.answer import (
    LATENCY,
    Answer,
    measured,
    percent,
    setting_words,
    verdict_words,
)
from sweeper.report.sweep.figures import Figure
from sweeper.report.sweep.media import Media
from sweeper.report.sweep.page import figure_element
from sweeper.report.sweep.standings import Standing
from sweeper.text import ALONE, duration_text, number_text, race_words, short_names, value_text

__all__ = ["Material", "sections"]

MOST_ROWS = 100
GIT_WORDS = {"dirty": "uncommitted changes"}
MOST_PICTURED = 3
MOST_VALUES = 60


@dataclass(frozen=True)
class Material:
    """What the parts are made of.

    Attributes:
        answer: What the first screen is made of.
        study: The sweep as a study of Optuna.
        media: Films and pictures.
        command: The command that started the sweep; empty if unknown.
    """

    answer: Answer
    study: optuna.Study
    media: Media
    command: str

    @property
    def sweep(self) -> SweepState:
        """The sweep."""
        return self.answer.sweep


class _Numbers:
    """Counts the figures of a page."""

    def __init__(self) -> None:
        self._next = 0

    def __call__(self, figure: Figure | None) -> Html:
        """A figure as an element; nothing for None."""
        if figure is None:
            return Html("")
        self._next += 1
        return figure_element(figure, self._next)


def sections(material: Material) -> Iterator[tuple[str, Html]]:
    """The title and the content of each part that has one."""
    drawn = _Numbers()
    parts = (
        ("Ranking", _ranking(material, drawn)),
        ("Confirmation", _confirmation(material)),
        ("On the real robot, judged by a person", _judgement(material)),
        ("Inference settings", _settings(material, drawn)),
        ("Value and latency", _front(material, drawn)),
        ("Parameters", _parameters(material, drawn)),
        ("Learning", _learning(material, drawn)),
        ("Early stops and failures", _endings(material.sweep)),
        ("Films and pictures", _pictures(material)),
        ("Data", _data(material.sweep)),
        ("How it was run", _run(material)),
    )
    yield from ((title, content) for title, content in parts if content)


# Ranking


def _ranking(material: Material, drawn: _Numbers) -> Html:
    sweep, standings = material.sweep, material.answer.standings
    if not sweep.trials:
        return Html("")
    objective = sweep.objectives[0]
    content: list[Html] = []
    if len(sweep.objectives) > 1:
        labels = [one.name for one in sweep.objectives]
        content.append(drawn(figures.pareto_figure(material.study, labels)))
        content.append(tag("p", "Orange: no other trial is better in all objectives.", class_="soft"))
    elif standings:
        finite = [one for one in standings if math.isfinite(one.value)]
        content.append(drawn(figures.ranking_figure(finite, objective.name)))
        content.append(tag("p", _marks(standings), class_="soft"))
    if sweep.confirmed_trial() is not None:
        text = "This is the ranking of the search. The confirmation below, on fresh starts, counts more."
        content.append(tag("p", text))
    trials = sweep.ranking()
    by_number = {one.trial.number: one for one in standings}
    rows = [_row(sweep, trial, by_number.get(trial.number)) for trial in trials[:MOST_ROWS]]
    heads = ["trial"]
    short = short_names([one.name for one in sweep.objectives])
    heads += [f"{short[one.name]} {'↑' if one.goal == 'maximize' else '↓'}" for one in sweep.objectives]
    heads += ["95 % interval", "", "P(best)", "episodes", "latency ms", "state"]
    heads += [*map(_short(material), sweep.varying), "step", "time"]
    words = {len(sweep.objectives) + 2, len(sweep.objectives) + 6}
    content.append(table(heads, rows, numbers=[at for at in range(len(heads)) if at not in words]))
    if any(trial.status != TrialStatus.COMPLETED for trial in trials):
        text = "Trials that did not run to their end are below those that did, whatever their value."
        content.append(tag("p", text, class_="soft"))
    if len(trials) > MOST_ROWS:
        command = tag("code", "sweeper results --json")
        rest = f"The best {MOST_ROWS} of {len(trials)} trials; "
        content.append(tag("p", rest, command, " prints all.", class_="soft"))
    return join(content)


def _short(material: Material) -> Any:
    return lambda name: material.answer.names.get(name, name)


def _marks(standings: Sequence[Standing]) -> str:
    if len(standings) == 1:
        return "Only one trial completed: there is nothing to compare it with."
    if not any(one.told_apart is not None for one in standings):
        return "There are no records of episodes, so nothing tells which differences are chance."
    return (
        "Trials that the episodes do not tell apart from the best are marked (95 %, paired tests with the "
        "best, adjusted by Holm's procedure)."
    )


def _row(sweep: SweepState, trial: TrialState, standing: Standing | None) -> list[Child]:
    interval, chance, episodes = "–", "–", "–"
    if standing is not None:
        name = sweep.objectives[0].name
        if standing.low is not None and standing.high is not None:
            interval = f"{measured(name, standing.low)} to {measured(name, standing.high)}"
        episodes = str(standing.episodes or "–")
        chance = "–" if standing.p_best is None else percent(standing.p_best)
    latency = trial.metrics.get(LATENCY)
    reason = f": {trial.reason}" if trial.status == TrialStatus.FAILED and trial.reason else ""
    state = f"{trial.status.value.replace('_', ' ')}{reason}"
    cells: list[Child] = [str(trial.number)]
    cells += [measured(one.name, trial.final.get(one.name)) for one in sweep.objectives]
    cells += [interval, _mark(sweep, trial, standing), chance, episodes]
    cells += ["–" if latency is None else f"{latency:.3g}", tag("span", state, class_="short")]
    cells += [value_text(trial.values.get(name, "")) for name in sweep.varying]
    return [*cells, f"{trial.step:,}", duration_text(trial.duration_s())]


def _mark(sweep: SweepState, trial: TrialState, standing: Standing | None) -> Child:
    if trial is sweep.confirmed_trial():
        state = sweep.confirmation["finalists"][0].get("state")
        said = {"best": "confirmed best", ALONE: "measured on fresh starts"}
        return tag("span", said.get(state, "leads on fresh starts"), class_="leads")
    if standing is None or len(sweep.objectives) > 1:
        return ""
    if standing.leads:
        return tag(
            "span", "best" if sweep.confirmed_trial() is None else "best of the search", class_="leads"
        )
    return tag("span", "not told apart", class_="open") if standing.told_apart is False else ""


# Confirmation and inference settings


def _confirmation(material: Material) -> Html:
    found = material.sweep.confirmation
    if "winner" not in found:
        return Html("")
    name = str(found.get("options", {}).get("metric", material.sweep.objectives[0].name))
    seeds = any("seeds_sd" in one.get("metrics", {}) for one in found["finalists"])
    heads = ["trial", "state", name, "95 % interval", "P(best)", "episodes", "in the search", "setting"]
    heads += ["sd between seeds"] if seeds else []
    rows = []
    acting = material.sweep.acting_values(found["finalists"])
    for one, values in zip(found["finalists"], acting, strict=True):
        metrics = one.get("metrics", {})
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        row = [
            str(one["trial"]),
            race_words(one.get("state", "")),
            measured(name, metrics.get(name)),
            f"{measured(name, low)} to {measured(name, high)}",
            percent(one["p_best"]) if "p_best" in one else "–",
            number_text(metrics.get("episodes")),
            measured(name, metrics.get("search")),
            setting_words(values, material.answer.names),
        ]
        rows.append([*row, number_text(metrics.get("seeds_sd"))] if seeds else row)
    return join(
        tag("p", verdict_words(material.sweep)),
        table(heads, rows, numbers=(0, 2, 3, 4, 5, 6)),
        tag("p", "Intervals hold at any time, also if you looked and continued.", class_="soft"),
    )


def _judgement(material: Material) -> Html:
    """What a person saw of the real robot: apart from what a simulator counted."""
    found = material.sweep.judgement
    if not found:
        return Html("")
    heads = [
        "trial",
        "policy",
        "state",
        "mean score",
        "95 % interval",
        "success",
        "P(best)",
        "episodes",
        "void",
    ]
    rows = []
    for one in found["finalists"]:
        metrics = one.get("metrics", {})
        low, high = metrics.get("score_low"), metrics.get("score_high")
        row = [str(winner_of(one)), str(one.get("letter", "")), race_words(one.get("state", ""))]
        row += [number_text(metrics.get("score")), f"{number_text(low)} to {number_text(high)}"]
        row += [measured("rollout/success_rate", metrics.get("success_rate"))]
        row += [percent(one["p_best"]) if "p_best" in one else "–"]
        rows.append([*row, number_text(metrics.get("episodes")), number_text(metrics.get("void"))])
    method = (
        "A person watched the robot, knew the policies by these letters only, and answered with success (1), "
        "failure (0) or a score between. All policies that were left met every start, in random order. "
        "Nothing of this is part of the simulated success above. Intervals hold at any time."
    )
    return join(
        tag("p", str(found["verdict"])),
        table(heads, rows, numbers=(0, 3, 4, 5, 6, 7, 8)),
        tag("p", method, class_="soft"),
        _tags(found["finalists"]),
    )


def _tags(judged: Sequence[Mapping[str, Any]]) -> Html:
    """How often each tag was given to each policy."""
    rows = [
        [str(winner_of(one)), str(name), f"{count:.0f}"]
        for one in judged
        for name, count in one.get("tags", {}).items()
    ]
    return table(["trial", "what went wrong", "episodes"], rows, numbers=(0, 2)) if rows else Html("")


def _finalists(sweep: SweepState) -> list[TrialState]:
    """The trials that are looked at closely: the confirmed ones, else the best."""
    numbers = [one["trial"] for one in sweep.confirmation.get("finalists", ())]
    trials = [sweep.trials[number] for number in numbers if number in sweep.trials]
    return trials or [trial for trial in sweep.ranking() if trial.status == TrialStatus.COMPLETED]


def _settings(material: Material, drawn: _Numbers) -> Html:
    objective = material.sweep.objectives[0]
    content: list[Html] = []
    for trial in [one for one in _finalists(material.sweep) if one.tried][:MOST_PICTURED]:
        before, after = trial.untuned.get(objective.name), trial.final.get(objective.name)
        content.append(
            tag("h3", f"Trial {trial.number}: {setting_words(trial.setting, material.answer.names)}")
        )
        text = f"{objective.name} on the starts that judge trials: {measured(objective.name, after)}"
        if before is not None and trial.setting:
            text += f", and {measured(objective.name, before)} with the setting of the training"
        content.append(tag("p", f"{text}."))
        content.append(_tried(material, trial, drawn))
    return join(content)


def _tried(material: Material, trial: TrialState, drawn: _Numbers) -> Html:
    """The settings of a trial that were examined; a sentence if there was nothing to choose from."""
    names, objective = material.answer.names, material.sweep.objectives[0]
    others = [one for one in trial.tried if one.get("state") != "chosen"]
    if others and all(one.get("state") == "impossible" for one in others):
        listed = "; ".join(setting_words(one.get("setting") or {}, names) for one in others[:MOST_ROWS])
        return tag("p", f"This policy allows none of the other settings: {listed}.", class_="soft")
    rows = [_tried_row(one, objective.name, names) for one in trial.tried[:MOST_ROWS]]
    heads = ["setting", "state", objective.name, "latency ms", "episodes", "front"]
    return join(
        drawn(figures.settings_figure(trial.tried, names, objective.name)),
        table(heads, rows, numbers=(2, 3, 4)),
    )


def _tried_row(one: Mapping[str, Any], metric: str, names: Mapping[str, str]) -> list[str]:
    value, latency = one.get("value"), one.get("latency_ms")
    return [
        setting_words(one.get("setting") or {}, names),
        race_words(one.get("state", "")),
        measured(metric, value) if isinstance(value, (int, float)) else "–",
        f"{latency:.3g}" if isinstance(latency, (int, float)) else "–",
        str(one.get("episodes", "–")),
        "on the front" if one.get("front") else "",
    ]


def _front(material: Material, drawn: _Numbers) -> Html:
    standings = [one for one in material.answer.standings if math.isfinite(one.value)]
    drawing = drawn(figures.front_figure(standings, material.sweep.objectives[0].name))
    note = "Each point is a completed trial; the best is green."
    if any(one.told_apart is False and not one.leads for one in standings):
        note += " The episodes do not tell the orange ones apart from it."
    return join(drawing, tag("p", note, class_="soft")) if drawing else drawing


# Parameters and learning


def _parameters(material: Material, drawn: _Numbers) -> Html:
    names = [material.answer.names[name] for name in material.sweep.varying]
    label = material.sweep.objectives[0].name
    shares = material.answer.shares
    ordered = [*shares, *(name for name in names if name not in shares)]
    content: list[Html] = []
    if shares:
        content.append(tag("h3", "Importance"))
        text = (
            "The share of each parameter in what distinguishes good trials from all trials (PED-ANOVA). A "
            "few dozen trials show a rough order."
        )
        content += [tag("p", text, class_="soft"), drawn(figures.importance_figure(shares))]
    slices = figures.slice_figures(material.study, ordered, label)
    if slices:
        content.append(tag("h3", "One parameter at a time"))
        content.append(tag("p", "Each point is a completed trial; later ones are bluer.", class_="soft"))
        content.append(tag("div", [drawn(figure) for figure in slices.values()], class_="grid"))
    parallel = figures.parallel_figure(material.study, ordered, label)
    if parallel is not None:
        content += [tag("h3", "All parameters together"), drawn(parallel)]
    return join(content)


def _learning(material: Material, drawn: _Numbers) -> Html:
    sweep = material.sweep
    best = [one.trial.number for one in material.answer.standings]
    content = []
    for objective in sweep.tracked:
        figure = figures.learning_figure(sweep, objective.name, best)
        if figure is not None:
            content += [tag("h3", objective.name), drawn(figure)]
    if len(sweep.objectives) == 1:
        history = figures.history_figure(material.study, sweep.objectives[0].name)
        if history is not None:
            content += [tag("h3", "Progress of the search"), drawn(history)]
    return join(content)


# Failures, pictures, data and versions


def _endings(sweep: SweepState) -> Html:
    groups: dict[tuple[str, str], list[TrialState]] = defaultdict(list)
    for trial in sweep.trials.values():
        if trial.status in (TrialStatus.STOPPED_EARLY, TrialStatus.FAILED, TrialStatus.INTERRUPTED):
            groups[(trial.status.value.replace("_", " "), trial.reason or "–")].append(trial)
    if not groups:
        return Html("")
    rows = []
    for (state, reason), trials in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]))):
        steps = [trial.step for trial in trials]
        span = f"{min(steps):,}" if min(steps) == max(steps) else f"{min(steps):,} to {max(steps):,}"
        named = ", ".join(str(trial.number) for trial in trials[:10]) + (" …" if len(trials) > 10 else "")
        message = next((trial.message for trial in trials if trial.message), "–")
        rows.append([state, reason, str(len(trials)), span, named, message])
    heads = ["state", "reason", "trials", "at step", "which", "message of the first"]
    return table(heads, rows, numbers=(2, 3))


def _pictures(material: Material) -> Html:
    shown = [one for trial in _finalists(material.sweep)[:MOST_PICTURED] for one in material.media.of(trial)]
    return tag("div", shown, class_="grid") if shown else Html("")


def _data(sweep: SweepState) -> Html:
    data = sweep.info.get("data") or sweep.info.get("dataset")
    if not isinstance(data, Mapping) or not data:
        return Html("")
    common = data_of_all(data)
    content = [_values(common), _combinations(data, common)]
    named = common.get("dataset") or []
    for name in named if isinstance(named, list) else [named]:
        command = tag("code", f"sweeper data check {shlex.quote(str(name))}")
        content.append(tag("p", command, " examines it, and shows what it finds.", class_="soft"))
    return join(content)


def _combinations(data: Mapping[str, Any], common: Mapping[str, Any]) -> Html:
    """What differs between the data of trials, by the values of the fields that decide it."""
    entries = data.get(SEARCHED)
    if not isinstance(entries, list) or not entries:
        return Html("")
    fields = list(entries[0][FIELDS])
    differing = [name for name in entries[0] if name != FIELDS and name not in common]
    rows = [
        [value_text(one[FIELDS].get(name)) for name in fields] + [_text(one.get(name)) for name in differing]
        for one in entries
    ]
    text = "Searched fields decide which of the data a trial uses:"
    return join(tag("p", text), table([*fields, *differing], rows, numbers=range(len(rows[0]))))


def _values(plain: Mapping[str, Any]) -> Html:
    rows = list(_flat(plain))[:MOST_VALUES]
    return table(["", ""], rows)


def _flat(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in plain.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif value is not None:
            yield name, _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    if not isinstance(value, (list, tuple)):
        return str(value)
    if any(isinstance(one, (Mapping, list)) for one in value):
        return json.dumps(value, default=str)
    return ", ".join(map(str, value))


def _run(material: Material) -> Html:
    info, spec = material.sweep.info, material.sweep.spec
    content: list[Html] = []
    if material.command:
        content += [tag("h3", "The command that repeats it"), tag("pre", tag("code", material.command))]
    for title, key in (("Versions", "versions"), ("Code", "git")):
        if isinstance(info.get(key), Mapping) and info[key]:
            known = {GIT_WORDS.get(name, name): value for name, value in info[key].items()}
            content += [tag("h3", title), _values(known)]
    if info.get("cluster"):
        content += [tag("h3", "Machines"), tag("p", str(info["cluster"]))]
    if spec.get("source"):
        summary = tag("summary", "The space file")
        content.append(tag("details", summary, tag("pre", tag("code", str(spec["source"])))))
    return join(content)
