"""The inference setting with which a command uses a policy."""

from __future__ import annotations

from typing import Any

from sweeper.finalists.candidates import Candidate
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.space_file.overrides import read_config
from trainables import registry
from trainables.interface import ConfigError, Fault

__all__ = ["chosen_setting", "typed_setting"]


def chosen_setting(candidate: Candidate) -> dict[str, Any]:
    """The setting that was chosen for a trial after its training, or that a checkpoint comes with."""
    if candidate.records is None or candidate.trial is None:
        return dict(candidate.setting)
    return dict(read_sweep(candidate.records.parents[2]).trial(candidate.trial).setting)


def typed_setting(candidate: Candidate, typed: list[str]) -> dict[str, Any]:
    """The fields of the setting that the user typed as ``KEY=VALUE``.

    Raises:
        ConfigError: If a field is not one, or its value is not legal.
    """
    trainable = registry.load(candidate.trainable)
    setting = read_config(trainable, typed)
    foreign = [name for name in setting if trainable.fields[name].phase != "inference"]
    if foreign:
        known = ", ".join(name for name, info in trainable.fields.items() if info.phase == "inference")
        remedy = f"Inference fields are {known}."
        raise ConfigError([Fault(name, "a trained policy cannot change it.", remedy) for name in foreign])
    return setting
