"""An Optuna study of another program: its parameters in the form of a space file."""

from __future__ import annotations

import json

import optuna
import pytest
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from sweeper.errors import UserError
from sweeper.search.foreign_study import read_foreign_study

FORMS = {
    "optimizer.lr": (FloatDistribution(1e-5, 1e-3, log=True), {"min": 1e-5, "max": 1e-3, "log": True}),
    "policy.horizon": (IntDistribution(8, 32, step=8), {"min": 8, "max": 32, "step": 8}),
    "policy.n_action_steps": (IntDistribution(1, 8), {"min": 1, "max": 8}),
    "policy.beta_end": (FloatDistribution(0.01, 0.05), {"min": 0.01, "max": 0.05}),
    "policy.beta_schedule": (CategoricalDistribution(["linear", "x"]), {"values": ["linear", "x"]}),
}
DISTRIBUTIONS = {name: distribution for name, (distribution, _) in FORMS.items()}
EXPECTED = {name: form for name, (_, form) in FORMS.items()}


@pytest.fixture
def storage(tmp_path) -> str:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(study_name="arm", storage=url, direction="maximize")
    study.ask(dict(list(DISTRIBUTIONS.items())[:3]))
    study.ask(dict(list(DISTRIBUTIONS.items())[2:]))
    return url


@pytest.mark.slow
def test_the_parameters_of_all_trials_are_read(storage):
    assert read_foreign_study(storage) == {"name": "arm", "parameters": EXPECTED, "direction": "maximize"}


@pytest.mark.slow
def test_a_database_can_be_named_as_a_file(storage):
    assert read_foreign_study(storage.removeprefix("sqlite:///"))["name"] == "arm"


@pytest.mark.slow
def test_one_of_several_studies_must_be_named(storage):
    optuna.create_study(study_name="other", storage=storage)

    with pytest.raises(UserError, match="--study NAME: arm, other"):
        read_foreign_study(storage)
    assert read_foreign_study(storage, "arm")["parameters"] == EXPECTED
    with pytest.raises(UserError, match="has no trials"):
        read_foreign_study(storage, "other")
    with pytest.raises(UserError, match="'third' is not in the storage"):
        read_foreign_study(storage, "third")


def test_a_missing_database_is_not_created(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        read_foreign_study(f"sqlite:///{tmp_path / 'none.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_a_database_is_refused(tmp_path):
    (tmp_path / "study.db").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read"):
        read_foreign_study(str(tmp_path / "study.db"))


@pytest.mark.parametrize("wrapped", [False, True])
def test_distributions_are_read_from_json(tmp_path, wrapped):
    listed = {name: json.loads(distribution_to_json(form)) for name, form in DISTRIBUTIONS.items()}
    stated = {"distributions": listed, "direction": "MINIMIZE"} if wrapped else listed
    (tmp_path / "study.json").write_text(json.dumps(stated))

    found = read_foreign_study(str(tmp_path / "study.json"))

    assert found["parameters"] == EXPECTED
    assert found.get("direction") == ("minimize" if wrapped else None)


@pytest.mark.parametrize("text", ["{", "[1]", '{"lr": 3}', "{}"])
def test_json_without_a_distribution_is_refused(tmp_path, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(UserError, match=r"study\.json"):
        read_foreign_study(str(tmp_path / "study.json"))
