"""Confirm finalists: the best trials of a sweep on fresh starts, until it is clear which one is the best.

The best of many noisy values is too good: its luck was chosen along with it. So the finalists are evaluated
on starts that chose nothing, block after block, all on the same ones, and the clearly worse ones leave
(`sweeper.evidence.race`). Stopping early and continuing later do not spoil the answer.

All that decides is in the files of episodes: the race is a function of them. A confirmation that was killed
continues where it was, and ends like one that was not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sweeper.errors import SweeperError, UserError
from sweeper.evidence.anytime import anytime_interval
from sweeper.evidence.probability_best import best_mean_probabilities
from sweeper.evidence.race import Race, RaceState
from sweeper.finalists.candidates import candidate_of, finalists
from sweeper.finalists.evaluators import Evaluators
from sweeper.finalists.racing import ConfirmOptions, Finalist, FinalistRace
from sweeper.finalists.recording import Recording
from sweeper.records.events import EventKind
from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import Objective
from sweeper.text import ALONE
from trainables.episodes import OUTCOMES, outcome_of

__all__ = ["ConfirmOptions", "Confirmation", "Finalist", "choose_finalists", "confirm", "confirmed_metric"]


@dataclass
class Confirmation:
    """What came of a confirmation.

    Attributes:
        metric: What was confirmed.
        found: A mapping for each finalist, best first, as the journal has it.
        verdict: The answer in a sentence or two.
        complete: Whether nothing is left to do.
        problems: Finalists that could not be evaluated, and why, in a sentence each.
    """

    metric: str
    found: list[dict[str, Any]]
    verdict: str
    complete: bool
    problems: list[str] = field(default_factory=list)


def confirmed_metric(sweep: SweepState) -> Objective:
    """What finalists are compared by: the first objective that is a mean of episodes, or the success rate.

    Raises:
        UserError: If the sweep has no rollouts.
    """
    for objective in sweep.objectives:
        if objective.name in OUTCOMES:
            return objective
    rolled_out = any(name in trial.metrics for trial in sweep.trials.values() for name in OUTCOMES)
    if not rolled_out:
        raise UserError(
            f"{sweep.name}: its trials were not rolled out in a simulator (rollout.env), so there are no "
            "episodes to confirm. `sweeper compare` compares their action errors."
        )
    return Objective("rollout/success_rate", "maximize")


def choose_finalists(
    sweep: SweepState, top: int, trials: Sequence[int] = ()
) -> tuple[list[Finalist], list[str]]:
    """The finalists of a sweep.

    Args:
        sweep: The sweep.
        top: How many of the best completed trials, if no trials are named.
        trials: The trials that are meant.

    Returns:
        The finalists, the best of the search first, and why others are missing, in a sentence each.

    Raises:
        UserError: If there are fewer than two, though more than one was asked for.
    """
    wanted = 2 if (len(set(trials)) if trials else top) > 1 else 1
    if trials:
        chosen = [candidate_of(sweep, number) for number in dict.fromkeys(trials)]
        missing: list[str] = []
    else:
        chosen, missing = finalists(sweep, top)
    if len(chosen) < wanted:
        reasons = "".join(f"\n{reason}" for reason in missing)
        raise UserError(
            f"{sweep.name}: a confirmation compares at least two trials with a checkpoint, and there is "
            f"{len(chosen) or 'none'}. To measure one alone: --top 1.{reasons}"
        )
    name = confirmed_metric(sweep).name
    found = []
    for candidate in chosen:
        assert candidate.trial is not None
        trial = sweep.trials[candidate.trial]
        with_setting = replace(candidate, setting=dict(trial.setting))
        found.append(Finalist(trial.number, (with_setting,), trial.metrics.get(name, math.nan)))
    return found, missing


def confirm(
    recording: Recording,
    wanted: Sequence[Finalist],
    options: ConfirmOptions,
    evaluators: Evaluators,
    progress: Callable[[str], object] = str,
) -> Confirmation:
    """Confirm finalists, and record what was found, also if Ctrl-C ends it.

    Args:
        recording: The journal of their sweep.
        wanted: The finalists.
        options: What is asked.
        evaluators: Where they are evaluated.
        progress: Receives a sentence after every block.

    Raises:
        SweeperError: If no finalist can be evaluated.
    """
    metric = confirmed_metric(recording.sweep)
    described = [
        {"trial": one.trial, "setting": dict(one.members[0].setting), "seeds": len(one.members)}
        for one in wanted
    ]
    recording.append(
        EventKind.CONFIRM_START,
        finalists=described,
        options={
            "metric": metric.name,
            "episodes": options.episodes,
            "epsilon": options.epsilon,
            "delta": options.delta,
        },
    )
    held_before = evaluators.held()
    finals = FinalistRace(metric, options, evaluators, _bounds(recording.sweep, metric), progress)
    finals.open(wanted)
    try:
        state = finals.run()
    except KeyboardInterrupt:
        state = None
    result = _result(finals, state)
    recording.append(
        EventKind.CONFIRMED,
        finalists=result.found,
        winner=result.found[0]["trial"],
        verdict=result.verdict,
        complete=result.complete,
        held={name: round(hours - held_before[name], 6) for name, hours in evaluators.held().items()},
    )
    return result


def _bounds(sweep: SweepState, metric: Objective) -> tuple[float, float]:
    """The least and the largest outcome of an episode."""
    inference = sweep.spec.get("inference")
    if metric.name == "rollout/success_rate" or inference is None:
        return (0.0, 1.0)
    low, high = inference["reward_range"]
    return (low, high)


def _result(finals: FinalistRace, state: RaceState | None) -> Confirmation:
    """What the episodes so far say; ``state`` is None if it was stopped."""
    if len(finals.finalists) == 1:
        return _alone(finals, state)
    race = finals.race()
    if not race.episodes:
        raise SweeperError("the confirmation was stopped before the first block of episodes ended.")
    left = list(race.remaining)
    out = [departure.arm for departure in reversed(race.departures)]
    played = [race.outcomes(arm) for arm in left]
    chances = dict(zip(left, best_mean_probabilities(played, paired=True).tolist(), strict=True))
    found = [
        _row(
            finals,
            arm,
            len(race.outcomes(arm)),
            race,
            chances.get(arm, 0.0),
            "left" if arm in left else "out",
        )
        for arm in [*left, *out]
    ]
    if found[0]["state"] == "failed":
        raise SweeperError("every finalist failed:\n" + "\n".join(finals.problems))
    if len(left) == 1:
        found[0]["state"] = "best"
    return Confirmation(
        finals.metric.name, found, _verdict(finals, race, state), state is not None, finals.problems
    )


def _row(
    finals: FinalistRace, arm: int, episodes: int, race: Race[int] | None, p_best: float | None, state: str
) -> dict[str, Any]:
    one = finals.finalists[arm]
    by_member = finals.records(arm, episodes)
    records = [record for member in by_member for record in member]
    metrics: dict[str, float] = {}
    if records:
        metrics = {
            name: statistics.fmean(outcome_of(record, name) for record in records) for name in OUTCOMES
        }
    metrics["episodes"] = len(records) / len(by_member)
    if race is not None and arm not in finals.failed:
        interval = race.interval(arm)
        low, high = finals.turned(interval.low, interval.high)
        metrics |= {f"{finals.metric.name}_low": low, f"{finals.metric.name}_high": high}
    if len(by_member) > 1 and all(by_member):
        means = [
            statistics.fmean(outcome_of(record, finals.metric.name) for record in member)
            for member in by_member
        ]
        metrics |= {"seeds": float(len(means)), "seeds_sd": statistics.stdev(means)}
    if math.isfinite(one.search):
        metrics["search"] = one.search
    return {
        "trial": arm,
        "setting": dict(one.members[0].setting),
        "metrics": metrics,
        **({} if p_best is None else {"p_best": p_best}),
        "state": "failed" if arm in finals.failed else state,
    }


def _alone(finals: FinalistRace, state: RaceState | None) -> Confirmation:
    """The measurement of a single trial, whose interval is for a fixed number of episodes."""
    (arm,) = finals.finalists
    outcomes = list(finals.outcomes(arm).values()) if arm not in finals.failed else []
    if not outcomes:
        raise SweeperError("\n".join(finals.problems) or "it was stopped before the first episodes ended.")
    row = _row(finals, arm, len(outcomes), None, None, ALONE)
    interval = anytime_interval(outcomes, finals.bounds)
    low, high = finals.turned(interval.low, interval.high)
    row["metrics"] |= {f"{finals.metric.name}_low": low, f"{finals.metric.name}_high": high}
    verdict = f"Trial {arm} was measured alone, in {len(outcomes)} episodes."
    return Confirmation(finals.metric.name, [row], verdict, state is not None, finals.problems)


def _verdict(finals: FinalistRace, race: Race[int], state: RaceState | None) -> str:
    leader, error = race.leader, f"{finals.options.delta:.0%}"
    after = f"after {race.episodes} episodes"
    if race.state is RaceState.DECIDED:
        sure = f"this is wrong with a probability of at most {error}"
        return f"Trial {leader} is the best of {len(race.arms)} finalists, {after} ({sure})."
    others = [str(arm) for arm in race.remaining if arm != leader]
    left = f"trial{'s' if len(others) > 1 else ''} {', '.join(others)}"
    if race.state is RaceState.WITHIN_EPSILON:
        return (
            f"Trial {leader} is at most {finals.options.epsilon:g} worse than the best, {after} (wrong "
            f"with a probability of at most {error}). Not told apart from it: {left}."
        )
    more = f"--episodes {2 * race.episodes} continues" if state is not None else "The same command continues"
    stopped = "It was stopped. " if state is None else ""
    return f"{stopped}Trial {leader} leads {after}. Not told apart from it: {left}. {more}."
