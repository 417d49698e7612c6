"""What a client asks for, checked: names, shapes, types, finite numbers. Every fault is reported at once.

Shapes: B rows, To observation steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from trainables.deployment.server import protocol
from trainables.features import Feature, FeatureType, PolicyFeatures

__all__ = ["LARGEST_SEED", "MOST_ROWS", "Request", "RequestError", "Reset", "Takes", "read_request"]

MOST_ROWS = 64
"""Rows of one message: more would keep the other clients waiting."""
LARGEST_SEED = 2**63 - 1
_EXTRAS = (
    protocol.COMMAND,
    protocol.SEED,
    protocol.GENERATOR,
    protocol.N_ACTION_STEPS,
    protocol.KNOWN,
    protocol.KEPT,
)


class RequestError(ValueError):
    """A message is not something that this policy can answer; the text is for the client."""


@dataclass(frozen=True)
class Takes:
    """What a policy takes.

    Attributes:
        features: What it sees and does.
        n_obs_steps: Observations.
        n_action_steps: Actions that it is meant to execute.
        available_actions: Actions that can be asked for, K.
        continues: Whether it can continue actions that are known.
    """

    features: PolicyFeatures
    n_obs_steps: int
    n_action_steps: int
    available_actions: int
    continues: bool


@dataclass(frozen=True)
class Reset:
    """The client asks for an empty history.

    Attributes:
        seed: The seed of the session's noise; None for another random one.
    """

    seed: int | None


@dataclass(frozen=True)
class Request:
    """An observation of a client.

    Attributes:
        layout: ``single``, one observation, which the session's history is completed with; ``stacked``,
            (To, ...); ``rows``, (B, To, ...).
        values: By name, with the shape of the layout; vectors float32, images uint8.
        observe_only: Whether the client wants no actions.
        seeds: The seed of the noise of each row; empty if it comes from elsewhere.
        states: The state of the generator of each row; empty likewise.
        n_action_steps: Actions that the client wants.
        known: (B, K, A), actions that the chunk continues; None if it is free.
        kept: (K,), the weight of each.
    """

    layout: Literal["single", "stacked", "rows"]
    values: Mapping[str, np.ndarray] = field(repr=False)
    observe_only: bool = False
    seeds: tuple[int, ...] = ()
    states: tuple[np.ndarray, ...] = ()
    n_action_steps: int = 1
    known: np.ndarray | None = field(default=None, repr=False)
    kept: np.ndarray | None = field(default=None, repr=False)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.values.values()))) if self.layout == "rows" else 1


def read_request(message: Any, takes: Takes) -> Request | Reset:
    """Check a message of a client.

    Args:
        message: What it sent.
        takes: What the policy takes.

    Raises:
        RequestError: If something is wrong with it.
    """
    if not isinstance(message, dict):
        raise RequestError(f"the message is a {type(message).__name__}: send a map of observations by name")
    command = message.get(protocol.COMMAND)
    if command == protocol.RESET:
        return _read_reset(message)
    if command not in (None, protocol.OBSERVE):
        raise RequestError(
            f"{protocol.COMMAND}: {_short(command)} is not one of {protocol.RESET}, {protocol.OBSERVE}"
        )
    found = {name: value for name, value in message.items() if name not in _EXTRAS}
    layout, values = _read_values(found, takes.features, takes.n_obs_steps)
    if command == protocol.OBSERVE and layout != "single":
        raise RequestError(f"{protocol.OBSERVE}: send one observation, without observation steps")
    request = Request(layout, values, command == protocol.OBSERVE)
    if request.observe_only:
        return request
    seeds, states = _read_seeds(message, request.rows), _read_states(message, request.rows)
    if seeds and states:
        raise RequestError(f"send either {protocol.SEED} or {protocol.GENERATOR}, not both")
    wanted = _read_count(message, takes)
    known, kept = _read_known(message, request, takes)
    return Request(layout, values, False, seeds, states, wanted, known, kept)


def _check_seed(seed: Any) -> int:
    """A seed of a client.

    Raises:
        RequestError: If it is not one.
    """
    if isinstance(seed, np.integer):
        seed = int(seed)
    if type(seed) is not int or not 0 <= seed <= LARGEST_SEED:
        raise RequestError(f"{protocol.SEED}: {_short(seed)} is not a whole number from 0 to 2^63 - 1")
    return seed


def _read_reset(message: Mapping[Any, Any]) -> Reset:
    unknown = sorted(map(_short, set(message) - {protocol.COMMAND, protocol.SEED}))
    if unknown:
        raise RequestError(f"{protocol.RESET}: {', '.join(unknown)} is not known. Only {protocol.SEED} is.")
    seed = message.get(protocol.SEED)
    return Reset(None if seed is None else _check_seed(seed))


def _read_values(
    found: Mapping[Any, Any], features: PolicyFeatures, n_obs_steps: int
) -> tuple[Literal["single", "stacked", "rows"], dict[str, np.ndarray]]:
    """The layout and the values of an observation."""
    known = {feature.name: feature for feature in features.inputs}
    faults = [
        f"{_short(name)}: the policy has no such input. It takes {', '.join(known)}."
        for name in found
        if name not in known
    ]
    faults += [f"{name}: is missing." for name in known if name not in found]
    arrays = {name: feature for name, feature in known.items() if name in found}
    faults += [fault for name, feature in arrays.items() for fault in _type_faults(feature, found[name])]
    if faults:
        raise RequestError(" ".join(faults))
    leading = {name: np.ndim(found[name]) - len(feature.shape) for name, feature in known.items()}
    layouts: tuple[Literal["single", "stacked", "rows"], ...] = ("single", "stacked", "rows")
    extra = next(iter(leading.values()))
    faults = [
        fault
        for name, feature in known.items()
        for fault in _shape_faults(feature, np.shape(found[name]), n_obs_steps)
    ]
    if faults:
        raise RequestError(" ".join(faults))
    if len(set(leading.values())) > 1:
        shapes = ", ".join(f"{name} {list(np.shape(found[name]))}" for name in known)
        raise RequestError(f"the observations have different numbers of steps or rows: {shapes}.")
    if extra == 2 and len({len(found[name]) for name in known}) > 1:
        raise RequestError("the observations have different numbers of rows.")
    if extra == 2 and not 1 <= len(found[next(iter(known))]) <= MOST_ROWS:
        rows = len(found[next(iter(known))])
        raise RequestError(f"the observations have {rows} rows: from 1 to {MOST_ROWS} are allowed.")
    values = {name: _value(feature, found[name]) for name, feature in known.items()}
    infinite = [
        f"{name}: has values that are not finite." for name, value in values.items() if not _finite(value)
    ]
    if infinite:
        raise RequestError(" ".join(infinite))
    return layouts[extra], values


def _type_faults(feature: Feature, value: Any) -> list[str]:
    if not isinstance(value, np.ndarray):
        return [f"{feature.name}: is a {type(value).__name__}, not an array."]
    if feature.type is FeatureType.VISUAL:
        return [] if value.dtype == np.uint8 else [f"{feature.name}: has the type {value.dtype}. Send uint8."]
    return [] if value.dtype.kind in "iuf" else [f"{feature.name}: has the type {value.dtype}. Send float32."]


def _shape_faults(feature: Feature, shape: tuple[int, ...], n_obs_steps: int) -> list[str]:
    """What is wrong with one shape, as a single observation, with steps, or with rows and steps."""
    wanted = feature.shape
    extra = len(shape) - len(wanted)
    if 0 <= extra <= 2 and shape[extra:] == wanted and (extra == 0 or shape[extra - 1] == n_obs_steps):
        return []
    stacked = [n_obs_steps, *wanted]
    problem = (
        f"{feature.name}: has the shape {list(shape)}. Send one observation, {list(wanted)}, the last "
        f"{n_obs_steps} observations, {stacked}, or rows of those, [B, {str(stacked)[1:]}."
    )
    if feature.type is FeatureType.VISUAL and shape[-3:] == (*wanted[1:], wanted[0]):
        problem += " The channels come first: image.transpose(2, 0, 1)."
    return [problem]


def _value(feature: Feature, array: np.ndarray) -> np.ndarray:
    return array if feature.type is FeatureType.VISUAL else _float32(array)


def _float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a float64 that is too large becomes infinite, which is reported
        return array.astype(np.float32)


def _finite(value: np.ndarray) -> bool:
    return value.dtype == np.uint8 or bool(np.isfinite(value).all())


def _read_seeds(message: Mapping[Any, Any], rows: int) -> tuple[int, ...]:
    given = message.get(protocol.SEED)
    if given is None:
        return ()
    seeds = given if isinstance(given, list) else [given]
    if len(seeds) != rows:
        raise RequestError(f"{protocol.SEED}: has {len(seeds)} seeds for {rows} rows")
    return tuple(_check_seed(seed) for seed in seeds)


def _read_states(message: Mapping[Any, Any], rows: int) -> tuple[np.ndarray, ...]:
    states = message.get(protocol.GENERATOR)
    if states is None:
        return ()
    if not isinstance(states, list) or len(states) != rows:
        raise RequestError(f"{protocol.GENERATOR}: send a list with one state per row")
    for state in states:
        if not isinstance(state, np.ndarray) or state.dtype != np.uint8 or state.ndim != 1:
            raise RequestError(f"{protocol.GENERATOR}: a state is not an array of uint8")
    return tuple(states)


def _read_count(message: Mapping[Any, Any], takes: Takes) -> int:
    count = message.get(protocol.N_ACTION_STEPS)
    if count is None:
        return takes.n_action_steps
    if type(count) is not int or not 1 <= count <= takes.available_actions:
        raise RequestError(
            f"{protocol.N_ACTION_STEPS}: {_short(count)} is not a whole number from 1 to "
            f"{takes.available_actions}"
        )
    return count


def _read_known(
    message: Mapping[Any, Any], request: Request, takes: Takes
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """The actions that the chunks of a request continue, and their weights."""
    known, kept = message.get(protocol.KNOWN), message.get(protocol.KEPT)
    if known is None and kept is None:
        return None, None
    if not takes.continues:
        raise RequestError(f"{protocol.KNOWN}: this policy cannot continue actions")
    steps, size = takes.available_actions, takes.features.action_dim
    rows = (request.rows,) if request.layout == "rows" else ()
    arrays = []
    for name, value, shape in (
        (protocol.KNOWN, known, (*rows, steps, size)),
        (protocol.KEPT, kept, (steps,)),
    ):
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf" or value.shape != shape:
            is_now = (
                f"has the shape {list(value.shape)}" if isinstance(value, np.ndarray) else "is not an array"
            )
            raise RequestError(f"{name}: {is_now}. Send numbers of the shape {list(shape)}")
        arrays.append(_float32(value))
        if not np.isfinite(arrays[-1]).all():
            raise RequestError(f"{name}: has values that are not finite")
    if not ((arrays[1] >= 0) & (arrays[1] <= 1)).all():
        raise RequestError(f"{protocol.KEPT}: has values that are not from 0 to 1")
    return arrays[0].reshape(request.rows, steps, size), arrays[1]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
