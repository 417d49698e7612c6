"""The search space of an Optuna study that this service did not make, as plain settings (`sweeper init`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    json_to_distribution,
)

from sweeper.errors import UserError
from sweeper.masking import masked
from sweeper.text import first_line

__all__ = ["read_foreign_study"]

SQLITE = "sqlite:///"
DISTRIBUTIONS = ("distributions", "params_distributions")


def read_foreign_study(place: str, name: str | None = None) -> Mapping[str, Any]:
    """Read a study: its parameters in the form of a space file, and the settings that are recorded with it.

    The sampler, the pruner and the objective of a study are in the program that ran it, not in its storage.

    Args:
        place: The URL of its storage (``sqlite:///study.db``), the file of one, or a JSON file with the
            distributions of its parameters, each as `distribution_to_json` writes it.
        name: The study; None if the storage has a single one.

    Raises:
        UserError: If there is no such study, or it has no parameters.
    """
    if place.endswith(".json"):
        return _of_json(Path(place).expanduser())
    if "://" not in place:
        place = f"{SQLITE}{Path(place).expanduser()}"
    if place.startswith(SQLITE) and not Path(place.removeprefix(SQLITE)).is_file():
        raise UserError(f"--from-optuna: {place.removeprefix(SQLITE)} is not a file.")
    study = _load(place, name)
    distributions: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        distributions |= trial.distributions
    if not distributions:
        raise UserError(
            f"--from-optuna: the study {study.study_name!r} has no trials, so no parameters either."
        )
    found: dict[str, Any] = {"name": study.study_name, "parameters": _forms(distributions)}
    if len(study.directions) == 1 and study.direction.name != "NOT_SET":
        found["direction"] = study.direction.name.lower()
    elif len(study.directions) > 1:
        found["directions"] = [direction.name.lower() for direction in study.directions]
    return found


def _load(place: str, name: str | None) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        names = optuna.get_all_study_names(place)
        if name is None and len(names) != 1:
            listed = ", ".join(names) or "none"
            raise UserError(f"--from-optuna: name one of the studies with --study NAME: {listed}.")
        if name is not None and name not in names:
            raise UserError(
                f"--study: {name!r} is not in the storage. Studies: {', '.join(names) or 'none'}."
            )
        return optuna.load_study(study_name=name or names[0], storage=place)
    except UserError:
        raise
    except Exception as error:  # of whichever database it is
        raise UserError(
            f"--from-optuna: {masked(place)} cannot be read: {masked(first_line(error))}."
        ) from error


def _of_json(file: Path) -> Mapping[str, Any]:
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--from-optuna: {file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"--from-optuna: {file} is not valid JSON: {error}.") from error
    listed = stated if isinstance(stated, dict) else {}
    listed = next((listed[key] for key in DISTRIBUTIONS if isinstance(listed.get(key), dict)), listed)
    distributions: dict[str, BaseDistribution] = {}
    for name, form in listed.items():
        try:
            text = form if isinstance(form, str) else json.dumps(form)
            distributions[name] = json_to_distribution(text)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    if not distributions:
        raise UserError(
            f"--from-optuna: {file} contains no distribution. Expected "
            '{"optimizer.lr": {"name": "FloatDistribution", "attributes": {"low": 1e-5, "high": 1e-3}}}'
            ", as optuna.distributions.distribution_to_json writes them, or name the study's storage."
        )
    found: dict[str, Any] = {"parameters": _forms(distributions)}
    if isinstance(stated.get("direction"), str):
        found["direction"] = stated["direction"].lower()
    return found


def _forms(distributions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    return {name: _form(distribution) for name, distribution in distributions.items()}


def _form(distribution: BaseDistribution) -> dict[str, Any]:
    """A distribution in the form of a space file."""
    match distribution:
        case CategoricalDistribution():
            return {"values": list(distribution.choices)}
        case FloatDistribution() | IntDistribution():
            form: dict[str, Any] = {"min": distribution.low, "max": distribution.high}
            if distribution.log:
                form["log"] = True
            elif distribution.step not in (None, 1):
                form["step"] = distribution.step
            return form
        case _:
            return {}
