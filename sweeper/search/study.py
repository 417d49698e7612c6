"""A sweep's search: suggests trials, and receives their reports and results.

`Study` joins two parts. The `StudyFile` on the disk decides which trials exist. The `Suggester` in memory has
the sampler, which learns from every trial. A suggestion that violates a constraint, that the trainable
refuses, or that repeats an earlier trial costs no trial: it is discarded, and the sampler is asked again.
Only a trial that is handed out is added to the file.

What is suggested for a trial depends on the seed of the search, on the number of the trial and on what was
recorded by then. So a sweep that was interrupted and resumed tries what an undisturbed one tries.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from sweeper.errors import StudyBusyError, SweeperError, UserError
from sweeper.search.sampler import Codec
from sweeper.search.study_file import StudyFile
from sweeper.search.suggester import Suggester
from sweeper.search.suggestion import Suggestion
from sweeper.spec.search_methods import method_faults
from sweeper.spec.sweep import SweepSpec, objective_fault
from sweeper.spec.taken import Taken
from trainables.interface import Fault

__all__ = ["Study", "config_hash"]

SAMPLER_ATTEMPTS = 20
"""Suggestions that the sampler is asked for before a configuration is drawn without it."""
DRAWS = 10_000
"""Configurations that are then drawn at random from a space too large to be listed."""
TRIED_FIRST = "tried_first"
"""The user attribute of a trial that was listed in ``search.try_first``: a hash of the listed values."""
ORIGIN = "origin"
"""The user attribute with the place from which the values of a trial were taken, in words."""
LISTED_BY_USER = "search.try_first"
"""The origin of a trial that the user listed."""
LISTED = 20_000
"""Combinations up to which a space is listed instead: then it is certain when nothing is left."""


def config_hash(config: Mapping[str, Any]) -> str:
    """A short text that is equal for equal configurations, in whatever order their names are."""
    text = json.dumps(config, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _no_faults(_config: Mapping[str, Any]) -> list[Fault]:
    return []


class Study:
    """The search of one sweep.

    Args:
        spec: The sweep; its folder contains the study.
        accept: Returns the faults that the trainable finds in a configuration. One with faults is not tried.
        finish: Makes the configuration that is trained of the one that was searched.
        defaults: The trainable's defaults, for constraints that mention fields that are not set.
        taken: What the sweep takes from earlier ones; the same each time that the study is opened.

    Attributes:
        objectives: The objectives of the sweep.
        file: The trials on the disk.
        suggester: The sampler, and the trials in memory.

    Raises:
        UserError: If the method cannot search the space, the study in the folder has another search, or
            another process runs this sweep.
        StudyBusyError: If the study cannot be read or written. The same call can then be made again.
    """

    def __init__(
        self,
        spec: SweepSpec,
        *,
        accept: Callable[[Mapping[str, Any]], list[Fault]] = _no_faults,
        finish: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        defaults: Mapping[str, Any] | None = None,
        taken: Taken | None = None,
    ) -> None:
        taken = Taken() if taken is None else taken
        faults = method_faults(spec.search, spec.space, spec.objectives)
        if faults:
            raise UserError("search.method: " + "\nsearch.method: ".join(faults))
        self.objectives = spec.objectives
        self._space = spec.space
        self._fixed = dict(spec.config)
        self._defaults = dict(defaults or {})
        self._accept = accept
        self._finish = finish
        self._grid = spec.search.method == "grid"
        codecs = {parameter.name: Codec(parameter) for parameter in spec.space.parameters}
        choices = {name: codec.choices for name, codec in codecs.items() if codec.choices is not None}
        self.file = StudyFile(spec.folder, spec.objectives, choices)
        try:
            earlier = self.file.trials()
            self._seed = spec.search.seed
            self._next_number = len(earlier)
            self.suggester = Suggester(spec, codecs, earlier, taken.known)
        except BaseException:
            self.close()
            raise
        self._points: Iterator[dict[str, Any]] | None = None
        tried = {trial.user_attrs.get(TRIED_FIRST) for trial in earlier}
        listed = [_Listed(values, LISTED_BY_USER) for values in spec.search.try_first]
        listed += [
            _Listed(one.values, str(one), wanted=False)
            for one in taken.first
            if spec.space.contains(one.values)
        ]
        self._first: dict[str, _Listed] = {}
        for one in listed:
            if one.key not in tried:
                self._first.setdefault(one.key, one)
        self._origins = {trial.number: str(trial.user_attrs.get(ORIGIN, "")) for trial in earlier}
        self._numbers_by_hash = {config_hash(trial.user_attrs["config"]): trial.number for trial in earlier}
        self._live = {
            trial.number: _LiveTrial(trial.number, max(trial.intermediate_values, default=-1))
            for trial in earlier
            if trial.state is TrialState.RUNNING
        }

    def ask(self) -> Suggestion | None:
        """Suggest a trial that keeps every constraint and repeats none; None if the space is exhausted.

        Raises:
            UserError: If no configuration that can be tried is found.
        """
        listed = self._ask_listed()
        if listed is not None:
            return listed
        if not self._grid:
            for attempt in range(SAMPLER_ATTEMPTS):
                asked, values = self.suggester.suggest(self._seed_of(attempt))
                config = self._finish(self._space.complete(values, self._fixed))
                if self._objection(config) is None:
                    return self._hand_out(asked, values, config)
                self.suggester.discard(asked)
        return self._ask_without_sampler()

    def _ask_listed(self) -> Suggestion | None:
        """The next trial of ``search.try_first`` or of an earlier sweep; None if none is left.

        Raises:
            UserError: If the user listed it, and it cannot be tried.
        """
        for key, one in list(self._first.items()):
            values, refusal = one.values, ""
            for attempt in range(SAMPLER_ATTEMPTS):
                asked, chosen = self.suggester.adopt(values, self._seed_of(attempt))
                config = self._finish(self._space.complete(chosen, self._fixed))
                objection = self._objection(config)
                if objection is None:
                    found = self._hand_out(asked, chosen, config, {TRIED_FIRST: key, ORIGIN: one.origin})
                    del self._first[key]
                    return found
                self.suggester.discard(asked)
                refusal = "" if objection.repeats else str(objection)
                if chosen.keys() <= values.keys():
                    break  # nothing of it is drawn
            if refusal and one.wanted:
                raise UserError(f"search.try_first: {dict(values)} cannot be tried: {refusal}.")
            del self._first[key]  # it was tried already, or no longer fits
        return None

    def _seed_of(self, attempt: int) -> int:
        """The seed of a suggestion for the next trial."""
        return random.Random(f"{self._seed} {self._next_number} {attempt}").getrandbits(32)

    def _ask_without_sampler(self) -> Suggestion | None:
        """Find a configuration that can be tried, and have the sampler adopt it."""
        refused: Counter[str] = Counter()
        repeated = bool(self._numbers_by_hash)
        for candidate in self._candidates():
            config = self._finish(candidate)
            objection = self._objection(config)
            if objection is None:
                values = {
                    parameter.name: config[parameter.name]
                    for parameter in self._space.parameters
                    if self._space.exists(parameter, config)
                }
                asked, _ = self.suggester.adopt(values)
                try:
                    return self._hand_out(asked, values, config)
                except StudyBusyError:
                    if self._points is not None:  # a grid must not lose a point
                        self._points = itertools.chain([candidate], self._points)
                    raise
            repeated = repeated or objection.repeats
            if not objection.repeats:
                refused[str(objection)] += 1
        if repeated:
            return None
        raise UserError(_nothing_legal(refused))

    def _candidates(self) -> Iterator[dict[str, Any]]:
        size = self._space.size()
        if size is None or size > LISTED:
            generator = random.Random(self._seed_of(SAMPLER_ATTEMPTS))
            return (self._space.draw(generator, self._fixed) for _ in range(DRAWS))
        if self._points is None:
            # Shuffled, so that a budget smaller than the space covers all of it. In the order of an earlier
            # driver: what that one tried already is passed over.
            points = list(self._space.points(self._fixed))
            random.Random(self._seed).shuffle(points)
            self._points = iter(points)
        return self._points

    def _objection(self, config: Mapping[str, Any]) -> _Objection | None:
        """Why a configuration cannot be tried, or None."""
        violated = self._space.violated(config, self._defaults)
        if violated:
            return _Objection(f"violates {violated[0]}")
        number = self._numbers_by_hash.get(config_hash(config))
        if number is not None:
            return _Objection(f"repeats trial {number}", repeats=True)
        faults = self._accept(config)
        if faults:
            return _Objection(str(faults[0]))
        return None

    def _hand_out(
        self,
        asked: int,
        values: Mapping[str, Any],
        config: Mapping[str, Any],
        notes: Mapping[str, Any] | None = None,
    ) -> Suggestion:
        trial = copy.copy(self.suggester.trial(asked))
        trial.user_attrs = {"values": dict(values), "config": dict(config), **(notes or {})}
        try:
            number = self.file.add(trial)
        except SweeperError:
            self.suggester.discard(asked)
            raise
        self._next_number = number + 1
        self._numbers_by_hash[config_hash(config)] = number
        self._origins[number] = str(trial.user_attrs.get(ORIGIN, ""))
        self._live[number] = _LiveTrial(asked)
        return Suggestion(number, dict(values), dict(config))

    def report(self, number: int, step: int, value: float) -> None:
        """Record the objective's value at a step of a running trial.

        Steps that are not beyond the last one, and values that are not finite, are ignored. With several
        objectives nothing is recorded, because Optuna accepts no reports then.
        """
        trial = self._live[number]
        if len(self.objectives) > 1 or not math.isfinite(value) or step <= trial.last_step:
            return
        self.file.report(number, step, float(value))
        self.suggester.report(trial.asked, step, float(value))
        trial.last_step = step

    def complete(self, number: int, values: Mapping[str, float]) -> None:
        """End a trial with its objective values, by metric name.

        If a value is missing or not finite, the trial fails with the reason from `objective_fault`.
        """
        fault = objective_fault(self.objectives, values)
        if fault is not None:
            self.fail(number, *fault)
            return
        self._end(number, TrialState.COMPLETE, [float(values[item.name]) for item in self.objectives])

    def prune(self, number: int) -> None:
        """End a trial that was stopped early; the sampler keeps what it reported."""
        self._end(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str, message: str = "") -> None:
        """End a trial that failed.

        Args:
            number: The trial.
            reason: One stable word, such as ``diverged``.
            message: An explanation for people.
        """
        self.file.annotate(number, {"reason": reason, "message": message})
        self._end(number, TrialState.FAIL)

    def _end(self, number: int, state: TrialState, values: list[float] | None = None) -> None:
        trial = self._live[number]
        if not trial.ended:  # the file may be busy, and then this is called again
            trial.values = self.suggester.end(trial.asked, state, values)
            trial.ended = True
        self.file.end(number, state, trial.values)
        del self._live[number]

    def annotate(self, number: int, notes: Mapping[str, Any]) -> None:
        """Add notes to a running trial, as user attributes."""
        self.file.annotate(number, notes)

    def origin(self, number: int) -> str:
        """Where the values of a trial were taken from, in words; empty if the search chose them."""
        return self._origins.get(number, "")

    def is_running(self, number: int) -> bool:
        """Whether a trial was handed out and has not ended."""
        return number in self._live

    def unfinished(self) -> list[Suggestion]:
        """The trials that were handed out and have not ended, with the configurations that they had.

        Directly after the study was opened, these are the trials that an earlier driver left behind: run them
        again under their numbers, or `fail` them.
        """
        return [
            Suggestion(trial.number, trial.user_attrs["values"], trial.user_attrs["config"])
            for trial in self.file.trials([TrialState.RUNNING])
        ]

    def close(self) -> None:
        """Close the study, so that another process can open it; can be called twice."""
        self.file.close()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


@dataclass
class _LiveTrial:
    """A trial that runs.

    Attributes:
        asked: Its number in the memory of the suggester.
        last_step: The last step that it reported.
        ended: Whether the suggester knows its end.
        values: Its objective values after that.
    """

    asked: int
    last_step: int = -1
    ended: bool = False
    values: list[float] | None = None


@dataclass(frozen=True)
class _Listed:
    """A trial that is tried before those that the sampler suggests.

    Attributes:
        values: Its values; the sampler chooses those that are missing.
        origin: Where they were taken from, in words.
        wanted: Whether the user listed it: then it is an error if it cannot be tried.
    """

    values: Mapping[str, Any]
    origin: str
    wanted: bool = True

    @property
    def key(self) -> str:
        """Identifies it, however often the study is opened."""
        return config_hash(self.values)


@dataclass(frozen=True)
class _Objection:
    """Why a configuration cannot be tried; ``repeats``: only because it was tried already."""

    text: str
    repeats: bool = False

    def __str__(self) -> str:
        return self.text


def _nothing_legal(refused: Counter[str]) -> str:
    total = sum(refused.values())
    if not total:
        return (
            "no combination of the parameters satisfies the constraints. "
            "Widen a range or remove a constraint."
        )
    lines = [f"  {count / total:5.1%}  {text}" for text, count in refused.most_common(5)]
    return (
        f"none of {total} configurations drawn from the space can be tried. They were refused because:\n"
        + "\n".join(lines)
        + "\nWiden a range or remove a constraint."
    )
