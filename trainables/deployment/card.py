"""The model card of a policy: what was measured, and plainly what was not.

The beginning of the card is data for the Hugging Face hub, with the fields that LeRobot's models have there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Confirmed", "Figure", "PolicyFacts", "SearchResult", "Speed", "model_card"]

_SHORT = {
    "rollout/success_rate": "success rate",
    "rollout/avg_max_reward": "mean of the largest rewards",
    "rollout/avg_sum_reward": "mean of the summed rewards",
}
BUILT_IN = "builtin/"
"""What the names of datasets begin with that the program makes itself."""
NOT_REAL = "Nothing here was measured on a real robot."


@dataclass(frozen=True)
class Figure:
    """A measured metric.

    Attributes:
        name: Its name in reports, e.g. ``rollout/success_rate``.
        value: The value.
        low: Lower end of its 95 % interval; None if there is none.
        high: Upper end.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Confirmed:
    """What a confirmation on fresh starts found of the policy.

    Attributes:
        figures: The figures, that by which finalists were compared first.
        episodes: Episodes of each policy behind them.
        finalists: How many policies were compared.
        seeds: How many policies, trained with different seeds, the figures are the mean of.
        verdict: The answer of the confirmation in a sentence or two.
        complete: Whether the confirmation ended by itself.
    """

    figures: tuple[Figure, ...]
    episodes: int
    finalists: int = 1
    seeds: int = 1
    verdict: str = ""
    complete: bool = True


@dataclass(frozen=True)
class SearchResult:
    """What the search found of the policy.

    Attributes:
        figures: The values of the objectives.
        episodes: Episodes behind them; 0 if they are not means of episodes, or have no records.
        trials: Trials of the search that completed, of which the best was chosen.
    """

    figures: tuple[Figure, ...]
    episodes: int = 0
    trials: int = 1


@dataclass(frozen=True)
class Speed:
    """How long the prediction of one action chunk takes.

    Attributes:
        p50_ms: The median.
        p95_ms: The time that 95 % of the runs keep.
        runs: Runs that were timed.
        hardware: What computed, in words.
        executed_steps: Actions of a chunk that are executed.
        busy_share: Share of the CPUs that was in use just before.
    """

    p50_ms: float
    p95_ms: float
    runs: int
    hardware: str
    executed_steps: int
    busy_share: float = 0.0


@dataclass(frozen=True)
class PolicyFacts:
    """What is known of a policy.

    Attributes:
        name: What it is called.
        trainable: Name of the trainable.
        step: Optimiser steps; 0 if unknown.
        origin: Where it comes from, in a sentence.
        environment: The simulator of the figures; empty if there is none.
        setting: Every inference field with its value.
        changed: The fields among them that were chosen after the training.
        confirmed: The confirmed figures; None if there are none.
        unconfirmed: Why there are none, in a sentence.
        search: The figures of the search; None for a checkpoint of no sweep.
        speed: The latency; None if it was not measured.
        data: The dataset: ``dataset``, ``revision``, ``episodes``, ``frames``, as far as known.
        base: The checkpoint that the training started from; empty if there is none.
        on_hub: The names among these two that are on the hub.
        trained: Fields of the training with their values.
        searched: The fields among them that the search varied.
        versions: Versions of the packages by name.
    """

    name: str
    trainable: str
    step: int = 0
    origin: str = ""
    environment: str = ""
    setting: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    confirmed: Confirmed | None = None
    unconfirmed: str = ""
    search: SearchResult | None = None
    speed: Speed | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""
    on_hub: tuple[str, ...] = ()
    trained: Mapping[str, Any] = field(default_factory=dict)
    searched: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(plain: Mapping[str, Any]) -> PolicyFacts:
        """Read what `to_json` wrote; fields of a newer version are left out.

        Raises:
            TypeError: If it is something else.
        """
        values = _known(PolicyFacts, plain)
        for name, kind in (("confirmed", Confirmed), ("search", SearchResult)):
            if values.get(name) is not None:
                inside = _known(kind, values[name])
                figures = tuple(Figure(**_known(Figure, one)) for one in inside["figures"])
                values[name] = kind(**{**inside, "figures": figures})
        if values.get("speed") is not None:
            values["speed"] = Speed(**_known(Speed, values["speed"]))
        for name in ("changed", "on_hub", "searched"):
            values[name] = tuple(values.get(name, ()))
        return PolicyFacts(**values)


def _known(kind: type, plain: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in dataclasses.fields(kind)}
    return {name: value for name, value in plain.items() if name in names}


def model_card(
    facts: PolicyFacts, *, target: str = "", notes: Sequence[str] = (), use: Sequence[str] = ()
) -> str:
    """Write the model card.

    Args:
        facts: What is known of the policy.
        target: The version of LeRobot that the files beside the card are for, e.g. ``lerobot==0.4.4``.
        notes: What that format replaces, and what was compared, in a sentence each.
        use: Lines of shell commands that run the policy.
    """
    import yaml

    head = yaml.safe_dump(_head(facts, target), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {facts.name}",
        _summary(facts, target),
        "## Results",
        *_results(facts),
        "## Inference setting",
        _setting(facts),
        *_conversion(target, notes),
        "## Latency",
        _latency(facts),
        "## Training",
        *_training(facts),
        "## Use",
        _use(use),
        "## Versions",
        _versions(facts, target),
    ]
    return f"---\n{head}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _head(facts: PolicyFacts, target: str) -> dict[str, Any]:
    """The data for the hub; `datasets` and `base_model` only if they are there."""
    datasets = [name for name in _names(facts.data.get("dataset")) if name in facts.on_hub]
    head: dict[str, Any] = {"library_name": "lerobot"} if target else {}
    head |= {
        "pipeline_tag": "robotics",
        "tags": ["robotics", *(["lerobot"] if target else []), "diffusion", "diffusion-policy"],
        "model_name": "diffusion",
    }
    if datasets:
        head["datasets"] = datasets
    if facts.base in facts.on_hub:
        head["base_model"] = facts.base
    if facts.confirmed is not None:
        head["metrics"] = [_plain(figure.name) for figure in facts.confirmed.figures]
        head["model-index"] = [_index(facts, facts.confirmed)]
    return head


def _index(facts: PolicyFacts, confirmed: Confirmed) -> dict[str, Any]:
    """The confirmed figures as the hub shows them."""
    environment = facts.environment or "the simulator of the training"
    metrics = [
        {"type": _plain(figure.name), "value": round(figure.value, 6), "name": _words(figure.name)}
        for figure in confirmed.figures
    ]
    result = {
        "task": {"type": "robotics", "name": "robotics"},
        "dataset": {"type": environment, "name": environment},
        "metrics": [{**metric, "verified": False} for metric in metrics],
    }
    return {"name": facts.name, "results": [result]}


def _summary(facts: PolicyFacts, target: str) -> str:
    form = f" The files are in the format of {target}." if target else ""
    steps = f" It was trained for {facts.step:,} steps." if facts.step else ""
    paper = "[Diffusion Policy](https://arxiv.org/abs/2303.04137)"
    return f"A {paper}. {facts.origin}{steps}{form}"


def _results(facts: PolicyFacts) -> list[str]:
    lines = []
    where = f" in {facts.environment}" if facts.environment else ""
    if facts.confirmed is not None:
        confirmed = facts.confirmed
        lines.append(_table(confirmed.figures))
        lines.append(
            f"Measured in {confirmed.episodes:,} episodes{where}, from starts that neither the search nor "
            "the choice of the inference setting had used. The intervals hold although a confirmation may "
            f"stop early. {confirmed.verdict}".rstrip()
        )
        if confirmed.finalists > 1:
            lines.append(f"The same figures decided between the {confirmed.finalists} finalists.")
        if not confirmed.complete:
            lines.append("**The confirmation was stopped before it was decided.**")
        if confirmed.seeds > 1:
            lines.append(
                f"The figures are means over {confirmed.seeds} policies of this configuration, trained with "
                "different seeds. This is one of them; its own figures may be better or worse."
            )
        lines += _beside_search(facts, confirmed)
    else:
        lines.append(f"**These figures are not confirmed.** {facts.unconfirmed}".rstrip())
        if facts.search is not None and facts.search.figures:
            lines.append(_table(facts.search.figures))
            lines.append(_search_note(facts.search, where))
        else:
            lines.append("No success rate or reward is known of this policy.")
    return [*lines, NOT_REAL]


def _beside_search(facts: PolicyFacts, confirmed: Confirmed) -> list[str]:
    known = {figure.name: figure.value for figure in confirmed.figures}
    if facts.search is None:
        return []
    pairs = [(one.name, one.value, known[one.name]) for one in facts.search.figures if one.name in known]
    return [
        f"The search had measured a {_words(name)} of {_number(name, before)}; on fresh starts it is "
        f"{_number(name, now)}."
        for name, before, now in pairs
    ]


def _search_note(search: SearchResult, where: str) -> str:
    measured = (
        f"Measured in {search.episodes:,} episodes{where} during the search. " if search.episodes else ""
    )
    if search.trials < 2:
        return measured.strip()
    return (
        f"{measured}The policy was chosen among {search.trials} by such values, so they are too good by "
        "chance: expect less."
    )


def _table(figures: Sequence[Figure]) -> str:
    rows = ["| metric | value | 95 % interval |", "|---|---|---|"]
    for figure in figures:
        interval = "–"
        if figure.low is not None and figure.high is not None:
            interval = f"{_number(figure.name, figure.low)} to {_number(figure.name, figure.high)}"
        rows.append(f"| {_words(figure.name)} | {_number(figure.name, figure.value)} | {interval} |")
    return "\n".join(rows)


def _setting(facts: PolicyFacts) -> str:
    if not facts.setting:
        return "As in the training."
    rows = ["| field | value | |", "|---|---|---|"]
    for name, value in facts.setting.items():
        note = "chosen after the training" if name in facts.changed else ""
        rows.append(f"| `{name}` | {_value(value)} | {note} |")
    if facts.confirmed is not None:
        rows += ["", "The figures above were measured with this setting."]
    return "\n".join(rows)


def _conversion(target: str, notes: Sequence[str]) -> list[str]:
    if not target or not notes:
        return []
    listed = "\n".join(f"- {note}" for note in notes)
    return [f"## Conversion to {target}", f"The figures were measured before the conversion.\n\n{listed}"]


def _latency(facts: PolicyFacts) -> str:
    speed = facts.speed
    if speed is None:
        return "Not measured."
    rate = speed.executed_steps / speed.p50_ms * 1000
    busy = ""
    if speed.busy_share > 0.1:
        share = f"{100 * speed.busy_share:.0f} %"
        busy = f" Other programs used {share} of the CPUs just before, so it may be faster."
    return (
        f"{_ms(speed.p50_ms)} ms for an action chunk (median of {speed.runs} runs; 95 % take at most "
        f"{_ms(speed.p95_ms)} ms), on {speed.hardware}. {speed.executed_steps} actions of a chunk are "
        f"executed, so up to {rate:.3g} actions per second. Measure it on the robot's own computer.{busy}"
    )


def _training(facts: PolicyFacts) -> list[str]:
    lines = []
    data = facts.data
    if data.get("dataset"):
        sizes = [
            f"{data[name]:,} {name}" for name in ("episodes", "frames") if isinstance(data.get(name), int)
        ]
        revision = f" at revision `{data['revision']}`" if isinstance(data.get("revision"), str) else ""
        listed = f" ({', '.join(sizes)})" if sizes else ""
        places = ", ".join(_place(name, facts.on_hub) for name in _names(data["dataset"]))
        lines.append(f"Trained on {places}{revision}{listed}.")
    else:
        lines.append("What it was trained on is not recorded.")
    if facts.base:
        lines.append(f"The training started from {_place(facts.base, facts.on_hub)}.")
    if facts.trained:
        rows = ["| field | value | |", "|---|---|---|"]
        rows += [
            f"| `{name}` | {_value(value)} | {'searched' if name in facts.searched else ''} |"
            for name, value in facts.trained.items()
        ]
        lines.append("\n".join(rows))
    return lines


def _use(use: Sequence[str]) -> str:
    return "```sh\n" + "\n".join(use) + "\n```" if use else ""


def _versions(facts: PolicyFacts, target: str) -> str:
    listed = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    form = f" Format of the files: {target}." if target else ""
    return f"Trained with {listed}.{form}" if listed else form.strip() or "Not recorded."


def _names(named: Any) -> list[str]:
    """The datasets of a description: a name, several, or none."""
    if named is None:
        return []
    return [str(name) for name in named] if isinstance(named, (list, tuple)) else [str(named)]


def _place(name: str, on_hub: Sequence[str]) -> str:
    """A name of the hub; of a folder only its own name, which tells nothing of the machine."""
    if name in on_hub:
        return f"`{name}`"
    if name.startswith(BUILT_IN):
        return f"`{name}` (comes with diffusion-policy-sweeper)"
    return f"`{name.rstrip('/').rpartition('/')[2]}` (a local folder)"


def _plain(metric: str) -> str:
    return metric.rpartition("/")[2]


def _words(metric: str) -> str:
    return _SHORT.get(metric, metric)


def _number(metric: str, value: float) -> str:
    return f"{100 * value:.1f} %" if metric == "rollout/success_rate" else f"{value:.4g}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _ms(time_ms: float) -> str:
    return f"{time_ms:.3g}" if time_ms < 1000 else f"{time_ms:,.0f}"
