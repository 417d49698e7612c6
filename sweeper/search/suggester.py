"""What to try next: Optuna's sampler with a study in memory, from which it learns.

Each suggestion has a seed, and a new sampler is made for it: what is suggested depends on the seed and on the
trials in memory, not on earlier suggestions of the same process. A suggestion that cannot be tried is
discarded, and leaves nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeper.search.sampler import Codec, build_sampler
from sweeper.spec.sweep import SweepSpec
from sweeper.spec.taken import TakenTrial

__all__ = ["Suggester"]

_ONE_RANGE = ("cmaes", "gp")
"""Methods that draw a parameter at random forever if one trial in memory has another range of it."""


class Suggester:
    """The sampler of a sweep, and what it knows.

    Args:
        spec: The sweep.
        codecs: How each parameter is stored, by name.
        earlier: The trials of earlier drivers, by number. They have the same numbers here. Trials outside the
            present ranges are failed trials here if the method cannot learn from them.
        known: Trials of earlier sweeps, from which the sampler learns. They have no numbers here, and are not
            among `trials`. Those outside the present ranges are left out.
    """

    def __init__(
        self,
        spec: SweepSpec,
        codecs: Mapping[str, Codec],
        earlier: Sequence[FrozenTrial],
        known: Iterable[TakenTrial] = (),
    ) -> None:
        self._spec = spec
        self._space = spec.space
        self._fixed = dict(spec.config)
        self._codecs = codecs
        self._known = [
            _as_optuna_has_it(trial, codecs) for trial in known if self._space.contains(trial.values)
        ]
        self._new_study([])
        present = {name: codec.distribution() for name, codec in codecs.items()}
        self._ignored: set[int] = set()
        for trial in earlier:
            moved = _in_present_ranges(trial, present)
            if spec.search.method in _ONE_RANGE and not _agrees(moved, present):
                self._ignored.add(trial.number)
                if trial.state.is_finished():
                    moved.state, moved.values = TrialState.FAIL, None
            if spec.search.method == "cmaes" and not _agrees(trial, present):
                # CMA-ES stores its state in trials; this state has the bounds of the former ranges.
                moved.system_attrs = {}
            self._study.add_trial(moved)

    def _new_study(self, trials: Sequence[FrozenTrial]) -> None:
        spec = self._spec
        self._storage = optuna.storages.InMemoryStorage()
        self._study = optuna.create_study(
            storage=self._storage,
            sampler=build_sampler(spec.search, spec.space, spec.objectives, spec.search.seed),
            pruner=optuna.pruners.NopPruner(),
            directions=[objective.goal for objective in spec.objectives],
        )
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        for trial in (*self._known, *trials):
            self._study.add_trial(trial)

    def suggest(self, seed: int) -> tuple[int, dict[str, Any]]:
        """Have the sampler choose the values of a new trial.

        Args:
            seed: Seed of what the sampler draws.

        Returns:
            The number of the trial in memory, and the values of the parameters that exist in it.
        """
        spec = self._spec
        self._study.sampler = build_sampler(spec.search, spec.space, spec.objectives, seed)
        trial = self._study.ask()
        values: dict[str, Any] = {}
        config = dict(self._fixed)
        for parameter in self._space.parameters:
            if self._space.exists(parameter, config):
                value = self._codecs[parameter.name].suggest(trial)
                values[parameter.name] = config[parameter.name] = value
        return trial.number - len(self._known), values

    def adopt(self, values: Mapping[str, Any], seed: int = 0) -> tuple[int, dict[str, Any]]:
        """Suggest a trial with these values; the sampler chooses those that are missing."""
        self._study.enqueue_trial({name: self._codecs[name].encode(value) for name, value in values.items()})
        return self.suggest(seed)

    def discard(self, number: int) -> None:
        """Forget the newest suggestion, because it cannot be tried."""
        self._new_study(self.trials()[:number])

    def trial(self, number: int) -> FrozenTrial:
        """A trial with everything that the sampler stored in it. The caller must not change it."""
        return self._storage.get_trial(self._trial_id(number))

    def trials(self) -> list[FrozenTrial]:
        """The trials of this sweep in memory, by number. The caller must not change them."""
        return self._study.get_trials(deepcopy=False)[len(self._known) :]

    def report(self, number: int, step: int, value: float) -> None:
        """Report the objective's value at a step of a running trial."""
        self._storage.set_trial_intermediate_value(self._trial_id(number), step, value)

    def end(
        self, number: int, state: TrialState, values: Sequence[float] | None = None
    ) -> list[float] | None:
        """End a trial.

        Returns:
            Its objective values. Optuna gives a pruned trial the last value that was reported.
        """
        if number not in self._ignored:
            return self._study.tell(self._place(number), values, state=state).values
        reports = self.trial(number).intermediate_values
        self._study.tell(self._place(number), state=TrialState.FAIL)
        if state is TrialState.PRUNED and reports:
            return [reports[max(reports)]]
        return None if values is None else list(values)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, self._place(number))

    def _place(self, number: int) -> int:
        """Where a trial is in memory: behind those of earlier sweeps."""
        return len(self._known) + number


def _as_optuna_has_it(trial: TakenTrial, codecs: Mapping[str, Codec]) -> FrozenTrial:
    """A trial of an earlier sweep as if its values had been drawn from the present ranges."""
    reports = {} if trial.stopped_at is None else {trial.stopped_at: trial.objectives[0]}
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if trial.stopped_at is None else TrialState.PRUNED,
        values=list(trial.objectives),
        params={name: codecs[name].encode(value) for name, value in trial.values.items()},
        distributions={name: codecs[name].distribution() for name in trial.values},
        intermediate_values=reports,
    )


def _in_present_ranges(
    trial: FrozenTrial, present: Mapping[str, optuna.distributions.BaseDistribution]
) -> FrozenTrial:
    """A trial as if its values had been drawn from the present ranges, if these contain them.

    Samplers model only those trials together that were drawn from the same ranges.
    """
    moved = copy.copy(trial)
    moved.distributions = {
        name: present[name]
        if name in present and _could_draw(present[name], drawn, trial.params[name])
        else drawn
        for name, drawn in trial.distributions.items()
    }
    return moved


def _agrees(trial: FrozenTrial, present: Mapping[str, optuna.distributions.BaseDistribution]) -> bool:
    """Whether a trial has the present range of each parameter."""
    return all(present.get(name, drawn) == drawn for name, drawn in trial.distributions.items())


def _could_draw(
    present: optuna.distributions.BaseDistribution, drawn: optuna.distributions.BaseDistribution, value: Any
) -> bool:
    if present == drawn:
        return True
    if type(present) is not type(drawn):
        return False
    try:
        optuna.trial.create_trial(
            state=TrialState.RUNNING, params={"value": value}, distributions={"value": present}
        )
    except ValueError:  # the value is outside
        return False
    return True
