"""A sweep's search: an Optuna study, asked for trials and told how they ended.

The study lies in ``study.db`` in the sweep's folder and is the truth about which trials there were and what
came of them. One process opens it, the driver; a lock sees to that.

The sampler works on a copy in memory. A suggestion that breaks a constraint, that the trainable refuses, or
that repeats an earlier trial costs no trial: the copy is told that it failed, and asked again. Only a trial
that is handed out is written down, so trials are numbered 0, 1, 2 and so on without gaps.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeper.errors import StudyBusyError, SweeperError, UserError
from sweeper.layout import LOCK, STUDY
from sweeper.search.sampler import Codec, build_sampler
from sweeper.search.suggestion import Suggestion
from sweeper.spec.search_methods import method_faults
from sweeper.spec.sweep import SweepSpec, objective_fault
from trainables.interface import Fault

__all__ = ["Study", "config_hash"]


def config_hash(config: Mapping[str, Any]) -> str:
    """A short text that is equal for equal configurations, whatever the order of their names."""
    text = json.dumps(config, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


SAMPLER_ATTEMPTS = 20
"""Suggestions that are asked of the sampler for one trial before we look for a legal one ourselves."""
DRAWS = 10_000
"""Configurations that are then drawn at random from a space too large to be listed."""
LISTED = 20_000
"""Combinations up to which a space is listed instead: then it is known for certain when nothing is left."""
BUSY_TIMEOUT_S = 5
"""How long one attempt to write waits for another process that holds the file."""


def _no_faults(_config: Mapping[str, Any]) -> list[Fault]:
    return []


class Study:
    """The search of one sweep.

    Args:
        spec: The sweep; its folder holds the study.
        accept: Says what the trainable finds wrong with a configuration; one with faults is not tried.
        defaults: The trainable's defaults, for constraints that mention fields that nobody set.

    Raises:
        UserError: If the method cannot search the space, the study in the folder searched something else,
            or another process runs this sweep.
        StudyBusyError: If the study cannot be read or written. What was asked may be asked again.
    """

    def __init__(
        self,
        spec: SweepSpec,
        *,
        accept: Callable[[Mapping[str, Any]], list[Fault]] = _no_faults,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        faults = method_faults(spec.search, spec.space, spec.objectives)
        if faults:
            raise UserError("search.method: " + "\nsearch.method: ".join(faults))
        self.objectives = spec.objectives
        self.path = spec.folder / STUDY
        self._space = spec.space
        self._fixed = dict(spec.config)
        self._defaults = dict(defaults or {})
        self._accept = accept
        self._grid = spec.search.method == "grid"
        self._codecs = {parameter.name: Codec(parameter) for parameter in spec.space.parameters}
        spec.folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(spec.folder / LOCK)
        self._take_lock()
        try:
            self._open(spec)
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path.parent}: another process is running this sweep. "
                "Wait for it or stop it; `sweeper status` shows what it does."
            ) from None

    def _open(self, spec: SweepSpec) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        directions = [objective.goal for objective in spec.objectives]
        with self._storage_errors():
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{self.path.absolute()}",
                engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT_S}},
            )
            self._record = optuna.create_study(
                study_name="sweep",
                storage=self._storage,
                sampler=optuna.samplers.RandomSampler(seed=0),
                directions=directions,
                load_if_exists=True,
            )
            self._check_same_search()
            earlier = self._record.get_trials(deepcopy=False)
        # Begun again with the same seed, a sampler would first suggest what it suggested before.
        seed = spec.search.seed if not earlier else (spec.search.seed * 1_000_003 + len(earlier)) % 2**32
        self._random = random.Random(seed)
        self._optuna = optuna.create_study(
            sampler=build_sampler(spec.search, spec.space, spec.objectives, seed),
            pruner=optuna.pruners.NopPruner(),
            directions=directions,
        )
        self._remember(earlier)

    def _remember(self, earlier: Sequence[FrozenTrial]) -> None:
        """Take up the trials of earlier drivers."""
        self._live: dict[int, _LiveTrial] = {}
        self._numbers_by_hash: dict[str, int] = {}
        self._points: Iterator[dict[str, Any]] | None = None
        for trial in earlier:
            self._numbers_by_hash[config_hash(trial.user_attrs["config"])] = trial.number
            memory = self._optuna._storage
            copied = memory.create_new_trial(
                self._optuna._study_id, template_trial=self._in_ranges_of_now(trial)
            )
            if trial.state is TrialState.RUNNING:
                asked = optuna.trial.Trial(self._optuna, copied)
                self._live[trial.number] = _LiveTrial(
                    trial._trial_id, asked, max(trial.intermediate_values, default=-1)
                )

    def _in_ranges_of_now(self, trial: FrozenTrial) -> FrozenTrial:
        """A trial as if its values had been drawn from the ranges of now, where they lie within.

        Samplers model those trials together that were drawn from the same ranges.
        """
        now = {
            name: wanted
            for name, drawn in trial.distributions.items()
            if (codec := self._codecs.get(name)) is not None
            and type(wanted := codec.distribution()) is type(drawn)
            and wanted._contains(wanted.to_internal_repr(trial.params[name]))
        }
        moved = copy.deepcopy(trial)
        moved.distributions = {**trial.distributions, **now}
        return moved

    def _check_same_search(self) -> None:
        """A study keeps its objectives and its choices; ranges may change."""
        now: dict[str, Any] = {
            "objectives": [[objective.name, objective.goal] for objective in self.objectives],
            "choices": {
                name: codec.choices for name, codec in self._codecs.items() if codec.choices is not None
            },
        }
        before = self._record.user_attrs.get("search")
        if before is None:
            self._record.set_user_attr("search", now)
            return
        remedy = "Give the sweep another name, or put it back."
        if before["objectives"] != now["objectives"]:
            was = ", ".join(f"{goal} {name}" for name, goal in before["objectives"])
            raise UserError(f"{self.path}: this study has another objective: {was}. {remedy}")
        for name, choices in now["choices"].items():
            if name in before["choices"] and before["choices"][name] != choices:
                raise UserError(
                    f"{self.path}: {name} had the values {before['choices'][name]} when this study began, "
                    f"and a study cannot change them. {remedy}"
                )

    # Asking

    def ask(self) -> Suggestion | None:
        """Suggest a trial that keeps every constraint and repeats none; None if the space is exhausted.

        Raises:
            UserError: If no configuration that may be tried can be found.
        """
        if not self._grid:
            for _ in range(SAMPLER_ATTEMPTS):
                trial = self._optuna.ask()
                values = self._suggest(trial)
                config = self._space.complete(values, self._fixed)
                if self._objection(config) is None:
                    return self._hand_out(trial, values, config)
                self._optuna.tell(trial, state=TrialState.FAIL)
        return self._ask_directly()

    def _ask_directly(self) -> Suggestion | None:
        """Find a configuration without the sampler, and have Optuna take it up as its own."""
        refused: Counter[str] = Counter()
        repeated = bool(self._numbers_by_hash)
        for config in self._candidates():
            objection = self._objection(config)
            if objection is None:
                values = {
                    parameter.name: config[parameter.name]
                    for parameter in self._space.parameters
                    if self._space.exists(parameter, config)
                }
                self._optuna.enqueue_trial(
                    {name: self._codecs[name].encode(value) for name, value in values.items()}
                )
                trial = self._optuna.ask()
                self._suggest(trial)
                try:
                    return self._hand_out(trial, values, config)
                except StudyBusyError:
                    if self._points is not None:  # a grid must not lose a point
                        self._points = itertools.chain([config], self._points)
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
            return (self._space.draw(self._random, self._fixed) for _ in range(DRAWS))
        if self._points is None:
            # Shuffled, so that a budget smaller than the space still sees all of it.
            points = list(self._space.points(self._fixed))
            self._random.shuffle(points)
            self._points = iter(points)
        return self._points

    def _suggest(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """Have Optuna choose every parameter that exists, in the order of the space."""
        values: dict[str, Any] = {}
        config = dict(self._fixed)
        for parameter in self._space.parameters:
            if self._space.exists(parameter, config):
                value = self._codecs[parameter.name].suggest(trial)
                values[parameter.name] = config[parameter.name] = value
        return values

    def _objection(self, config: Mapping[str, Any]) -> _Objection | None:
        """Why a configuration is not to be tried, or None."""
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
        self, trial: optuna.trial.Trial, values: Mapping[str, Any], config: Mapping[str, Any]
    ) -> Suggestion:
        frozen = self._optuna._storage.get_trial(trial._trial_id)
        frozen.user_attrs = {"values": dict(values), "config": dict(config)}
        try:
            with self._storage_errors():
                trial_id = self._storage.create_new_trial(self._record._study_id, template_trial=frozen)
                number = self._storage.get_trial_number_from_id(trial_id)
        except SweeperError:
            self._optuna.tell(trial, state=TrialState.FAIL)
            raise
        self._numbers_by_hash[config_hash(config)] = number
        self._live[number] = _LiveTrial(trial_id, trial)
        return Suggestion(number, dict(values), dict(config))

    # Telling

    def report(self, number: int, step: int, value: float) -> None:
        """Note the objective's value at a step of a running trial.

        Steps that are no further than the last one, and values that are no numbers, are ignored. Optuna
        takes no reports where there are several objectives; then nothing is noted.
        """
        trial = self._live[number]
        if len(self.objectives) > 1 or not math.isfinite(value) or step <= trial.last_step:
            return
        with self._storage_errors():
            self._storage.set_trial_intermediate_value(trial.trial_id, step, float(value))
        trial.asked.report(float(value), step)
        trial.last_step = step

    def complete(self, number: int, values: Mapping[str, float]) -> None:
        """End a trial with its objective values, by metric name.

        A value that is missing or not finite fails the trial instead, as `objective_fault` says.
        """
        fault = objective_fault(self.objectives, values)
        if fault is not None:
            self.fail(number, *fault)
            return
        self._tell(number, TrialState.COMPLETE, [float(values[item.name]) for item in self.objectives])

    def prune(self, number: int) -> None:
        """End a trial that was stopped early; what it reported stays known to the sampler."""
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str, message: str = "") -> None:
        """End a trial that failed.

        Args:
            number: The trial.
            reason: One stable word, such as ``diverged``.
            message: The rest, for a person.
        """
        with self._storage_errors():
            for name, text in {"reason": reason, "message": message}.items():
                self._storage.set_trial_user_attr(self._live[number].trial_id, name, text)
        self._tell(number, TrialState.FAIL)

    def _tell(self, number: int, state: TrialState, values: list[float] | None = None) -> None:
        trial = self._live[number]
        if trial.told is None:  # what failed below is asked for again
            # Optuna wants no value for a pruned trial, and gives it the last one that was reported.
            trial.told = self._optuna.tell(trial.asked, values, state=state)
        with self._storage_errors():
            self._storage.set_trial_state_values(trial.trial_id, state, trial.told.values)
        del self._live[number]

    def annotate(self, number: int, notes: Mapping[str, Any]) -> None:
        """Note something about a running trial, as user attributes."""
        with self._storage_errors():
            for name, value in notes.items():
                self._storage.set_trial_user_attr(self._live[number].trial_id, name, value)

    # Looking back

    def is_running(self, number: int) -> bool:
        """Whether a trial was handed out and not yet told to have ended."""
        return number in self._live

    def unfinished(self) -> list[Suggestion]:
        """The trials that were handed out and never ended, with the configurations they had.

        Just after the study was opened these are what an earlier driver left behind: run them again under
        their numbers, or `fail` them.
        """
        with self._storage_errors():
            running = self._record.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [
            Suggestion(trial.number, trial.user_attrs["values"], trial.user_attrs["config"])
            for trial in running
        ]

    def close(self) -> None:
        """Let go of the study, so that another process may open it; may be called twice."""
        storage = getattr(self, "_storage", None)
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()
        self._lock.release()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ or error
            raise StudyBusyError(
                f"{self.path}: the study cannot be read or written: {str(cause).splitlines()[0]}. "
                "Is the disk full, or the file on a network drive that knows no locks?"
            ) from error


@dataclass
class _LiveTrial:
    """A trial that runs: its id in ``study.db``, what the sampler knows it by, and its last reported step."""

    trial_id: int
    asked: optuna.trial.Trial
    last_step: int = -1
    told: FrozenTrial | None = None


@dataclass(frozen=True)
class _Objection:
    """Why a configuration is not to be tried; ``repeats`` where only because it was tried already."""

    text: str
    repeats: bool = False

    def __str__(self) -> str:
        return self.text


def _nothing_legal(refused: Counter[str]) -> str:
    total = sum(refused.values())
    if not total:
        return "no combination of the parameters keeps the constraints. Widen a range or drop a constraint."
    lines = [f"  {count / total:5.1%}  {text}" for text, count in refused.most_common(5)]
    return (
        f"none of {total} configurations drawn from the space may be tried. They were refused because:\n"
        + "\n".join(lines)
        + "\nWiden a range or drop a constraint."
    )
