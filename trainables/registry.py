"""Trainables by name, loaded when they are needed."""

from __future__ import annotations

import difflib
import importlib

from trainables.interface import ConfigError, Fault, Trainable

__all__ = ["load", "names"]

_BUILT_IN = {
    "diffusion_policy": "trainables.diffusion_policy:TRAINABLE",
    "diffusion_policy_distilled": "trainables.diffusion_policy_distilled:TRAINABLE",
}


def names() -> tuple[str, ...]:
    """List the built-in trainables."""
    return tuple(_BUILT_IN)


def load(name: str) -> Trainable:
    """Find a trainable by its built-in name or as ``module:attribute``.

    Raises:
        ConfigError: If no such trainable exists, the module cannot be imported, or its object is not a
            trainable.
    """
    target = _BUILT_IN.get(name, name)
    module_name, separator, attribute = target.partition(":")
    if not separator:
        near = difflib.get_close_matches(name, _BUILT_IN, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        known = ", ".join(_BUILT_IN)
        raise ConfigError(
            [
                Fault(
                    "trainable",
                    f"no trainable is called {name!r}.",
                    f"{hint}Known: {known}; or module:attribute.",
                )
            ]
        )
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (
        ImportError,
        AttributeError,
        ValueError,
        TypeError,
    ) as error:  # the last two: not a name of a module
        raise ConfigError([Fault("trainable", f"{name!r} cannot be loaded: {error}.")]) from error
    if not isinstance(found, Trainable):
        wanted = "name, fields, aliases, metrics, faults, preflight, describe, disk_gb, train"
        raise ConfigError([Fault("trainable", f"{name!r} is not a trainable.", f"It must have {wanted}.")])
    return found
