"""The first screen of a report: which policy, how sure that is, which parameters matter, how fast it is."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeper.layout import SWEEPS
from sweeper.records.forecast import cost_of
from sweeper.records.spending import NOT_INCLUDED, spending_of
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.report.markup import Html, join, tag
from sweeper.report.sweep.standings import SUCCESS, Standing
from sweeper.spec.cost import money_text
from sweeper.text import duration_text, number_text, value_text, with_command
from trainables.episodes import OUTCOMES

__all__ = ["Answer", "answer", "measured", "percent", "setting_words", "verdict_words"]

PUSHT = "gym_pusht/"
LATENCY, RATE = "eval/chunk_latency_ms", "eval/action_rate_hz"
MOST_NAMED = 12
MANY_TRIALS = 40
"""With fewer completed trials, importances are only a rough order."""


@dataclass(frozen=True)
class Answer:
    """What the first screen is made of.

    Attributes:
        sweep: The sweep.
        standings: Its completed trials.
        shares: The importance of each parameter, by its short name.
        names: The short name of each searched parameter and inference field.
    """

    sweep: SweepState
    standings: Sequence[Standing]
    shares: Mapping[str, float]
    names: Mapping[str, str]


def answer(given: Answer) -> Html:
    """The cards of the first screen."""
    chosen = given.sweep.confirmed_trial() or given.sweep.best_trial()
    if chosen is None:
        return join(_none(given.sweep), tag("div", _cost(given), class_="cards"))
    cards = (_best(given, chosen), _sureness(given, chosen), _parameters(given), _speed(chosen), _cost(given))
    return join(tag("div", cards, class_="cards"), _commands(given.sweep, chosen))


def measured(name: str, value: float | None) -> str:
    """A value of a metric in words: a rate of success in percent."""
    if value is None or math.isnan(value):
        return "–"
    if name.startswith(SUCCESS):
        return percent(value)
    # Three digits also if the last one is a zero, so that values below each other can be compared.
    return f"{value:#.3g}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def percent(share: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * share:.0f} %"


def verdict_words(sweep: SweepState) -> str:
    """The verdict of the last confirmation."""
    return with_command(str(sweep.confirmation.get("verdict", "")), f"sweeper confirm {_arguments(sweep)}")


def setting_words(setting: Mapping[str, object], names: Mapping[str, str]) -> str:
    """An inference setting in words."""
    words = [f"{names.get(name, name)} = {value_text(value)}" for name, value in setting.items()]
    return ", ".join(words) or "as trained"


def _card(title: str, *content: Html | str, class_: str = "") -> Html:
    return tag("section", tag("h2", title), *content, class_=f"card {class_}".strip())


def _none(sweep: SweepState) -> Html:
    failed = sweep.count(TrialStatus.FAILED)
    why = f" {failed} of {len(sweep.trials)} failed; the reasons are below." if failed else ""
    return _card("No policy yet", tag("p", f"No trial has completed.{why}"), class_="wide")


def _best(given: Answer, chosen: TrialState) -> Html:
    sweep = given.sweep
    objective = sweep.objectives[0].name
    standing = next((one for one in given.standings if one.trial is chosen), None)
    confirmed = chosen if sweep.confirmed_trial() is chosen else None
    lines: list[Html] = []
    if confirmed is not None:
        name = str(sweep.confirmation.get("options", {}).get("metric", objective))
        metrics = confirmed.confirmed
        figure = measured(name, metrics.get(name))
        interval = _interval(name, metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
        source = f"{name}, confirmed in {metrics.get('episodes', 0):.0f} episodes on fresh starts"
    else:
        name = objective
        figure = measured(name, chosen.final.get(name))
        interval = "" if standing is None else _interval(name, standing.low, standing.high)
        episodes = f" in {standing.episodes} episodes" if standing and standing.episodes else ""
        source = f"{name}, measured in the search{episodes}; not confirmed"
    lines.append(tag("p", figure, class_="figure-of-merit"))
    lines += [tag("p", interval)] if interval else []
    lines.append(tag("p", source, class_="soft"))
    if len(sweep.objectives) > 1:
        others = ", ".join(
            f"{one.name} {measured(one.name, chosen.final.get(one.name))}" for one in sweep.objectives[1:]
        )
        lines.append(tag("p", f"Also: {others}. The first objective decides between trials of the front."))
    setting = setting_words(_setting(sweep, chosen), given.names)
    lines.append(tag("p", tag("b", "Inference setting: "), setting))
    values = ", ".join(
        f"{given.names.get(name, name)} = {value_text(value)}" for name, value in chosen.values.items()
    )
    lines.append(tag("p", tag("b", "Parameters: "), values or "none were searched"))
    return _card(f"Best policy: trial {chosen.number}", *lines, class_="best")


def _setting(sweep: SweepState, chosen: TrialState) -> Mapping[str, object]:
    """The inference setting with which a trial was confirmed, else the one of its value in the ranking."""
    if sweep.confirmed_trial() is not chosen:
        return chosen.setting
    finalists = sweep.confirmation["finalists"]
    found: Mapping[str, object] = next(
        (one.get("setting", {}) for one in finalists if one["trial"] == chosen.number), chosen.setting
    )
    return found


def _interval(name: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return ""
    return f"95 % interval {measured(name, low)} to {measured(name, high)}"


def _sureness(given: Answer, chosen: TrialState) -> Html:
    sweep = given.sweep
    if sweep.confirmed_trial() is chosen:
        return _confirmed_sureness(sweep, chosen)
    completed = len(given.standings)
    command = tag("code", f"sweeper confirm {_arguments(sweep)}")
    advice = (command, " measures the best trials again on fresh starts.")
    if completed == 1:
        return _card(
            "Is it sure?", tag("p", "Only one trial completed: there is nothing to compare it with.")
        )
    if len(sweep.objectives) > 1:
        text = (
            f"This sweep has {len(sweep.objectives)} objectives. The trial above is one of those that no "
            "other beats in all of them; choose from the front below."
        )
        return _card("Is it sure?", tag("p", text))
    if not any(one.told_apart is not None for one in given.standings):
        text = (
            f"Unknown. There are no records of episodes for {sweep.objectives[0].name}, so it cannot be told "
            "how much of a difference is chance."
        )
        return _card("Is it sure?", tag("p", text))
    rivals = [one.trial.number for one in given.standings if not one.leads and one.told_apart is False]
    leader = given.standings[0]
    chance = _chance(leader)
    if rivals:
        named = ", ".join(map(str, rivals[:MOST_NAMED])) + (" …" if len(rivals) > MOST_NAMED else "")
        many = f"{len(rivals)} of {completed - 1} other completed trials may be as good"
        text = f"No: {many} (trial {named}).{chance}"
        more = f"The value of the best of {completed} trials is also too good by chance. "
        return _card("Is it sure?", tag("p", text), tag("p", more, *advice), class_="unsure")
    uncompared = sum(one.told_apart is None for one in given.standings[1:])
    told = f"all {completed - 1}" if not uncompared else str(completed - 1 - uncompared)
    rest = f" {uncompared} others were not compared with it." if uncompared else ""
    text = f"Yes: the episodes tell {told} other completed trials apart from it.{rest}{chance}"
    more = "Its value may still be too good by chance, because the search chose it. "
    return _card("Is it sure?", tag("p", text), tag("p", more, *advice), class_="sure")


def _chance(leader: Standing) -> str:
    if leader.p_best is None:
        return ""
    return f" It is the best with a probability of {percent(leader.p_best)}."


def _confirmed_sureness(sweep: SweepState, chosen: TrialState) -> Html:
    name = str(sweep.confirmation.get("options", {}).get("metric", sweep.objectives[0].name))
    lines = [tag("p", verdict_words(sweep))]
    before, now = chosen.confirmed.get("search"), chosen.confirmed.get(name)
    if before is not None and now is not None:
        text = (
            f"The search had measured {measured(name, before)}; on fresh starts it is {measured(name, now)}."
        )
        lines.append(tag("p", text))
    finalists = sweep.confirmation.get("finalists", ())
    decided = any(one.get("state") == "best" for one in finalists)
    return _card("Is it sure?", *lines, class_="sure" if decided else "unsure")


def _parameters(given: Answer) -> Html:
    if not given.shares:
        text = "Too few completed trials with different values to say."
        return _card("Which parameters matter?", tag("p", text))
    rows = [
        tag("li", tag("span", name), tag("b", percent(share)), style=f"--share: {min(share, 1.0):.4f}")
        for name, share in list(given.shares.items())[:4]
    ]
    completed = len(given.standings)
    text = f"from {completed} completed trials" + (": a rough order" if completed < MANY_TRIALS else "")
    return _card("Which parameters matter?", tag("ul", rows, class_="bars"), tag("p", text, class_="soft"))


def _speed(chosen: TrialState) -> Html:
    latency, rate = chosen.metrics.get(LATENCY), chosen.metrics.get(RATE)
    if latency is None:
        return _card("How fast is it?", tag("p", "Not measured."))
    lines = [tag("p", f"{latency:.3g} ms", class_="figure-of-merit"), tag("p", "for an action chunk")]
    if rate is not None:
        lines.append(tag("p", f"up to {rate:.3g} actions per second"))
    return _card("How fast is it?", *lines)


def _cost(given: Answer) -> Html:
    sweep = given.sweep
    hours = cost_of(sweep).so_far
    used = f"{number_text(hours)} GPU-hours" if hours else f"{duration_text(sweep.trials_s())} on CPUs"
    counts = ", ".join(
        f"{sweep.count(status)} {status.value.replace('_', ' ')}"
        for status in TrialStatus
        if sweep.count(status)
    )
    spending = spending_of(sweep)
    money = [] if spending is None else [money_text(spending.so_far, spending.currency)]
    left_out = [] if spending is None else [tag("p", f"Held by trials and confirmations; {NOT_INCLUDED}")]
    first, *more = [*money, used]
    return _card(
        "What did it cost?",
        tag("p", first, class_="figure-of-merit small"),
        *(tag("p", words) for words in more),
        *left_out,
        tag("p", f"{duration_text(sweep.running_s())} by the clock, without pauses"),
        tag("p", f"{len(sweep.trials)} trials: {counts or 'none'}"),
    )


def _commands(sweep: SweepState, chosen: TrialState) -> Html:
    name = sweep.name if _is_default(sweep) else str(sweep.folder)
    source, to = shlex.quote(f"{name}:{chosen.number}"), shlex.quote(f"{sweep.name}-policy")
    lines = [f"# a policy in LeRobot's format, for a robot\nsweeper export {source} --to {to}"]
    if str(chosen.config.get("rollout.env", sweep.spec["config"].get("rollout.env", ""))).startswith(PUSHT):
        lines.append(f"lerobot-eval --policy.path={to} --env.type=pusht")
    if not any(name in trial.metrics for trial in sweep.trials.values() for name in OUTCOMES):
        lines.insert(0, f"# judge the best trials on the robot\nsweeper judge {_arguments(sweep)}")
    elif sweep.confirmed_trial() is None:
        lines.insert(0, f"# measure the best trials on fresh starts\nsweeper confirm {_arguments(sweep)}")
    return _card("Use it", tag("pre", tag("code", "\n".join(lines))), class_="wide")


def _arguments(sweep: SweepState) -> str:
    return shlex.quote(sweep.name if _is_default(sweep) else str(sweep.folder))


def _is_default(sweep: SweepState) -> bool:
    """Whether commands find the sweep by its name."""
    return sweep.folder.parent.absolute() == SWEEPS.absolute()
