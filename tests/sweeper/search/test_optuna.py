"""Optuna behaves as the search relies on; a new version that does not fails here, with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

RANGE = FloatDistribution(0.0, 1.0)


@pytest.fixture(params=["memory", "file"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """The two kinds of storage that the search uses directly, each with a study called ``sweep``."""
    if request.param == "memory":
        made: Any = optuna.storages.InMemoryStorage()
        optuna.create_study(storage=made, study_name="sweep")
        yield made
        return
    made = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    optuna.create_study(storage=made, study_name="sweep")
    yield made
    made.remove_session()
    made.engine.dispose()


@pytest.mark.slow
def test_a_storage_numbers_trials_from_0_and_finds_them_by_number(storage):
    study_id = storage.get_study_id_from_name("sweep")
    template = create_trial(
        state=TrialState.RUNNING,
        params={"x": 0.5},
        distributions={"x": RANGE},
        user_attrs={"config": {"x": 0.5}},
        system_attrs={"kept": 1},
    )
    for number in range(3):
        trial_id = storage.create_new_trial(study_id, template_trial=template)
        assert storage.get_trial_number_from_id(trial_id) == number
        assert storage.get_trial_id_from_study_id_trial_number(study_id, number) == trial_id
    trials = storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,))
    assert [trial.number for trial in trials] == [0, 1, 2]
    for trial in trials:
        assert (trial.params, trial.distributions) == ({"x": 0.5}, {"x": RANGE})
        assert (trial.user_attrs, trial.system_attrs) == ({"config": {"x": 0.5}}, {"kept": 1})


def test_a_storage_keeps_reports_notes_and_ends(storage):
    study_id = storage.get_study_id_from_name("sweep")
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_intermediate_value(trial_id, 10, 0.25)
    storage.set_trial_user_attr(trial_id, "reason", "lost")
    storage.set_trial_state_values(trial_id, TrialState.PRUNED, [0.25])
    (trial,) = storage.get_all_trials(study_id, deepcopy=False)
    assert (trial.state, trial.values) == (TrialState.PRUNED, [0.25])
    assert (trial.intermediate_values, trial.user_attrs) == ({10: 0.25}, {"reason": "lost"})


def test_a_running_trial_that_was_added_can_be_ended_by_its_number():
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, direction="maximize")
    study.add_trial(create_trial(state=TrialState.RUNNING, params={"x": 0.5}, distributions={"x": RANGE}))
    study_id = storage.get_study_id_from_name(study.study_name)
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, 0)
    storage.set_trial_intermediate_value(trial_id, 10, 0.25)
    told = study.tell(0, None, state=TrialState.PRUNED)
    assert (told.state, told.values) == (TrialState.PRUNED, [0.25])  # the last report is its value


def test_a_trial_outside_its_distribution_cannot_be_created():
    def create(value: Any, distribution: Any) -> None:
        create_trial(state=TrialState.RUNNING, params={"x": value}, distributions={"x": distribution})

    create(1.0, RANGE)
    create("a", CategoricalDistribution(("a", "b")))
    for value, distribution in ((1.5, RANGE), ("c", CategoricalDistribution(("a", "b")))):
        with pytest.raises(ValueError, match=r"contained in|not in"):
            create(value, distribution)


def test_the_next_trial_has_the_values_that_were_enqueued():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.ask()
    study.enqueue_trial({"x": 0.125})
    trial = study.ask()
    assert trial.suggest_float("x", 0.0, 1.0) == 0.125
    assert trial.number == 1
