"""Checks of the events of a journal, which may be damaged or come from an untrusted source."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from sweeper.records.status import SWEEP_ENDS, TRIAL_ENDS
from sweeper.spec.sweep import BudgetSpec, SweepSpec

__all__ = [
    "Check",
    "Event",
    "EventKind",
    "event_fault",
    "is_driver",
    "is_finalists",
    "is_flag",
    "is_hours",
    "is_info",
    "is_judged",
    "is_mapping",
    "is_mappings",
    "is_names",
    "is_path",
    "is_text",
    "is_texts",
    "is_time",
    "is_trial",
    "is_whole",
    "spec_fault",
    "winner_of",
]

Event = dict[str, Any]
"""One line: ``event`` (an `EventKind`), ``time`` (seconds since 1970), and the fields of that kind."""


class EventKind(StrEnum):
    """The kinds of event, and the fields of each beside ``event`` and ``time``.

    ``sweep_start``
        ``sweep``, ``sweep_id``, ``spec``, ``space`` (the YAML text), ``info`` (versions, git commit, identity
        of the data), ``driver`` (host, pid, started). Written again each time a driver continues the sweep.
    ``trial_start``
        ``trial``, ``config`` (all of it), ``values`` (what was searched); ``origin`` if the search did not
        choose the values: where they were taken from, in words.
    ``report``
        ``trial``, ``step``, ``metrics``; ``artifacts`` and ``checkpoint`` if there are any.
    ``trial_retry``
        ``trial``, ``reason``, ``message``, ``step``, ``retry`` (which one it is, counted from 1), ``changes``
        (fields of its configuration that change with the next attempt). The trial continues from its last
        checkpoint with another ``trial_start``.
    ``checkpoints_dropped``
        ``trial``, ``folders``. Written before they are deleted.
    ``trial_end``
        ``trial``, ``status``, ``reason``, ``message``, ``step``, ``final``, ``best``, ``sweep_best``,
        ``ended`` (trials that ended so far); ``gpu_hours`` and ``sweep_gpu_hours`` if trials use GPUs;
        ``cost``, ``sweep_cost`` and ``currency`` if the sweep has prices.
    ``sweep_end``
        ``status``, ``message``.
    ``tuned``
        ``trial``, ``setting`` (the inference setting that was chosen; empty for the one of the training),
        ``metrics`` (of that setting, on the starts that judge trials), ``untuned`` (the same of the setting
        of the training), ``tried`` (a mapping for each setting that was examined). What follows in the
        ranking is the value of the chosen setting.
    ``confirm_start``
        ``finalists`` (a mapping for each: ``trial``, ``setting``), ``options`` (as they were asked for).
        Again whenever a confirmation that was cut off is continued.
    ``confirmed``
        ``finalists`` (a mapping for each, best first: ``trial``, ``setting``, ``metrics``, ``p_best``,
        ``state``), ``winner`` (the number of a trial), ``verdict``, ``complete`` (whether nothing is left to
        do), ``held`` (``gpu_hours`` and ``cpu_hours`` that its evaluations held).
    ``judged``
        The same of policies on a real robot whose episodes a person judged, and ``options``. Each finalist
        also has its neutral name ``letter`` and ``tags`` (how often each was given). If it is not a trial of
        the sweep, its ``trial`` is null, and ``policy`` is its name, which ``winner`` has if it won.
    ``trial_wait``
        ``trial``, ``needs``: what the cluster has not given it yet (``1 GPU``); empty once it has.
    ``trial_placed``
        ``trial``, ``node_types`` (of each worker's machine: a name under ``cost.node_types``, or empty).
        Only if machines have different prices.
    ``steer``
        ``action`` (``pause``, ``paused`` once every trial has stopped, ``resume``, ``stop``, ``cancel``,
        ``budget``), ``text``; ``trial`` if it concerns one trial, ``budget`` if that is new.
    ``note``
        ``text``, perhaps ``trial``.
    """

    SWEEP_START = "sweep_start"
    TRIAL_START = "trial_start"
    REPORT = "report"
    TRIAL_RETRY = "trial_retry"
    CHECKPOINTS_DROPPED = "checkpoints_dropped"
    TRIAL_END = "trial_end"
    SWEEP_END = "sweep_end"
    TUNED = "tuned"
    CONFIRM_START = "confirm_start"
    CONFIRMED = "confirmed"
    JUDGED = "judged"
    TRIAL_WAIT = "trial_wait"
    TRIAL_PLACED = "trial_placed"
    STEER = "steer"
    NOTE = "note"


MOST_TRIALS = 10**7

LATEST_S = 4e9
"""Times beyond the year 2096 cannot be shown by every machine."""

ACTIONS = ("pause", "paused", "resume", "stop", "cancel", "budget")

NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""How a journal writes the numbers that JSON does not have."""

Check = Callable[[Any], bool]

_FLOAT = frozenset({float})


def event_fault(event: Event, started: Mapping[int, object], *, begun: bool = True) -> str:
    """What is wrong with an event, as a text; empty if it is correct.

    Args:
        event: The event; it has at least ``event`` and ``time``.
        started: The trials that were started by the events before it. Only these can report and end.
        begun: Whether the sweep has started.
    """
    kind = event["event"]
    checks = _FIELDS.get(kind) if isinstance(kind, str) else None
    if not isinstance(kind, str) or not is_time(event["time"]):
        return "`event` is not a word, or `time` is not a time"
    if checks is None:
        return ""  # of a later version: it is ignored
    for name, (check, wanted, needed) in checks.items():
        if name not in event:
            if needed:
                return f"{kind}: `{name}` is missing"
        elif not check(event[name]):
            return f"{kind}: `{name}` is not {wanted}"
    if kind == EventKind.SWEEP_START:
        return spec_fault(event["spec"])
    if not begun and kind != EventKind.NOTE:
        return f"{kind}: the sweep had not started"
    if kind in _OF_TRIALS and event["trial"] not in started:
        return f"{kind}: trial {event['trial']} never started"
    if kind in (EventKind.CONFIRMED, EventKind.JUDGED):
        if event["winner"] not in map(winner_of, event["finalists"]):
            return f"{kind}: trial {event['winner']} is not among the finalists"
        numbers = {one["trial"] for one in event["finalists"] if one["trial"] is not None}
        if numbers - started.keys():
            return f"{kind}: trial {min(numbers - started.keys())} never started"
    return ""


def spec_fault(spec: Mapping[str, Any]) -> str:
    """What is wrong with a sweep as plain types."""
    try:
        made = SweepSpec.from_dict(spec)
    except Exception as error:  # any error that plain types of another form can cause
        return f"sweep_start: `spec` is not a sweep: {type(error).__name__}: {error}"[:300]
    sound = (
        is_text(made.name)
        and is_text(made.trainable)
        and bool(made.objectives)
        and all(is_text(item.name) and item.goal in ("minimize", "maximize") for item in made.objectives)
        and _is_budget(spec["budget"])
        and (made.tracking.uri is None or is_text(made.tracking.uri))
        and is_text(made.tracking.experiment)
        and all(is_text(parameter.name) for parameter in made.space.parameters)
    )
    if not sound:
        return "sweep_start: `spec` is not a sweep: a name, an objective, the budget or where its runs go"
    stop = made.early_stop
    if stop is not None and not (is_text(stop.metric) and stop.goal in ("minimize", "maximize")):
        return "sweep_start: `spec` is not a sweep: `early_stop`"
    return ""


def is_text(value: Any) -> bool:
    """Whether a value is a text."""
    return isinstance(value, str)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number that every database can store."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value in NOT_FINITE
    if isinstance(value, int):
        return abs(value) < 2**63
    return isinstance(value, float)


def is_time(value: Any) -> bool:
    """Whether a value is a time in seconds since 1970."""
    return _is_number(value) and not isinstance(value, (str, bool)) and 0 <= value < LATEST_S


def is_trial(value: Any) -> bool:
    """Whether a value is the number of a trial."""
    return is_whole(value) and 0 <= value < MOST_TRIALS


def is_mapping(value: Any) -> bool:
    """Whether a value is a mapping."""
    return isinstance(value, dict)


def _is_numbers(value: Any) -> bool:
    if not is_mapping(value):
        return False
    # Most metrics of most reports are floats, which need no closer look.
    return _FLOAT.issuperset(map(type, value.values())) or all(map(_is_number, value.values()))


def is_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(map(is_text, value))


def is_names(value: Any) -> bool:
    """Whether a value is a mapping of texts."""
    return is_mapping(value) and all(map(is_text, value.values()))


def is_path(value: Any) -> bool:
    """Whether a value can be a path."""
    return is_text(value) and "\0" not in value


def _is_limit(value: Any) -> bool:
    return value is None or (
        _is_number(value) and not isinstance(value, (str, bool)) and math.isfinite(value)
    )


def _is_budget(value: Any) -> bool:
    try:
        made = BudgetSpec(**value)
    except TypeError:
        return False
    limits = (made.hours, made.gpu_hours, made.max_failed, made.cost, made.stagnation)
    return is_whole(made.trials) and all(map(_is_limit, limits))


def is_driver(value: Any) -> bool:
    """Whether a value describes the process of a driver."""
    if not is_mapping(value):
        return False
    return is_whole(value.get("pid", 0)) and is_time(value.get("started", 0.0))


def is_info(value: Any) -> bool:
    """Whether a value is information about a sweep, with numbers of resources."""
    if not is_mapping(value):
        return False
    resources, steps = value.get("resources"), value.get("steps")
    return (steps is None or is_whole(steps)) and (
        resources is None
        or (_is_numbers(resources) and not any(isinstance(number, str) for number in resources.values()))
    )


def is_mappings(value: Any) -> bool:
    """Whether a value is a list of mappings."""
    return isinstance(value, list) and all(map(is_mapping, value))


def is_finalists(value: Any) -> bool:
    """Whether a value describes finalists: a list of mappings, each with the number of a trial."""
    if not is_mappings(value):
        return False
    return all(is_trial(one.get("trial")) and _is_finalist(one) for one in value)


def _is_finalist(one: Mapping[str, Any]) -> bool:
    return (
        is_mapping(one.get("setting", {}))
        and _is_numbers(one.get("metrics", {}))
        and _is_numbers({"p_best": one.get("p_best", 0.0)})
        and is_text(one.get("state", ""))
    )


def is_judged(value: Any) -> bool:
    """Whether a value describes finalists that a person judged: trials, or policies with a name."""
    return (
        is_mappings(value)
        and len(value) > 0
        and all(
            (
                is_trial(one.get("trial"))
                or ("trial" in one and one["trial"] is None and _is_name(one.get("policy")))
            )
            and _is_finalist(one)
            and is_text(one.get("letter", ""))
            and _is_numbers(one.get("tags", {}))
            for one in value
        )
    )


def winner_of(one: Mapping[str, Any]) -> Any:
    """What ``winner`` is if this finalist won: the number of its trial, or the name of another policy."""
    return one.get("policy") if one["trial"] is None else one["trial"]


def _is_name(value: Any) -> bool:
    return is_text(value) and bool(value)


def _is_winner(value: Any) -> bool:
    return is_trial(value) or _is_name(value)


def is_hours(value: Any) -> bool:
    """Whether a value is a mapping of hours, which are finite and not negative."""
    return is_mapping(value) and all(
        isinstance(hours, (int, float)) and not isinstance(hours, bool) and 0 <= hours < math.inf
        for hours in value.values()
    )


def is_flag(value: Any) -> bool:
    """Whether a value is true or false."""
    return isinstance(value, bool)


_TEXT = (is_text, "a text", True)

_TRIAL = (is_trial, "the number of a trial", True)

_STEP = (is_whole, "a whole number", True)

_MAPPING = (is_mapping, "a mapping", True)

_NUMBERS = (_is_numbers, "numbers by name", True)

# Fields that only MLflow receives.
_SAID_TEXT, _SAID_STEP, _SAID_NUMBERS = (
    (check, wanted, False) for check, wanted, _ in (_TEXT, _STEP, _NUMBERS)
)

_FIELDS: Mapping[str, Mapping[str, tuple[Check, str, bool]]] = {
    EventKind.SWEEP_START: {
        "sweep": _TEXT,
        "sweep_id": _TEXT,
        "spec": _MAPPING,
        "space": _SAID_TEXT,
        "info": (is_info, "information with numbers of resources", True),
        "driver": (is_driver, "a process", True),
    },
    EventKind.TRIAL_START: {
        "trial": _TRIAL,
        "config": _MAPPING,
        "values": _MAPPING,
        "origin": (is_text, "a text", False),
    },
    EventKind.REPORT: {
        "trial": _TRIAL,
        "step": _STEP,
        "metrics": _NUMBERS,
        "artifacts": (is_names, "paths by name", False),
        "checkpoint": (is_path, "a path", False),
    },
    EventKind.TRIAL_RETRY: {
        "trial": _TRIAL,
        "reason": _TEXT,
        "message": _TEXT,
        "step": _SAID_STEP,
        "retry": _SAID_STEP,
        "changes": _MAPPING,
    },
    EventKind.CHECKPOINTS_DROPPED: {
        "trial": _TRIAL,
        "folders": (lambda value: is_texts(value) and all(map(is_path, value)), "a list of paths", True),
    },
    EventKind.TRIAL_END: {
        "trial": _TRIAL,
        "status": (lambda value: value in TRIAL_ENDS, f"one of {', '.join(TRIAL_ENDS)}", True),
        "reason": _TEXT,
        "message": _TEXT,
        "step": _SAID_STEP,
        "final": _SAID_NUMBERS,
        "best": _SAID_NUMBERS,
        "sweep_best": _SAID_NUMBERS,
        "ended": _SAID_STEP,
    },
    EventKind.TRIAL_WAIT: {"trial": _TRIAL, "needs": _TEXT},
    EventKind.TRIAL_PLACED: {"trial": _TRIAL, "node_types": (is_texts, "a list of texts", True)},
    EventKind.STEER: {
        "action": (lambda value: value in ACTIONS, f"one of {', '.join(ACTIONS)}", True),
        "text": _SAID_TEXT,
        "trial": (is_trial, "the number of a trial", False),
        "budget": (_is_budget, "a budget", False),
    },
    EventKind.SWEEP_END: {
        "status": (lambda value: value in SWEEP_ENDS, f"one of {', '.join(SWEEP_ENDS)}", True),
        "message": _TEXT,
    },
    EventKind.TUNED: {
        "trial": _TRIAL,
        "setting": _MAPPING,
        "metrics": _NUMBERS,
        "untuned": _NUMBERS,
        "tried": (is_mappings, "a list of mappings", True),
    },
    EventKind.CONFIRM_START: {
        "finalists": (is_finalists, "a list of finalists", True),
        "options": _MAPPING,
    },
    EventKind.CONFIRMED: {
        "finalists": (is_finalists, "a list of finalists", True),
        "winner": _TRIAL,
        "verdict": _TEXT,
        "complete": (is_flag, "true or false", True),
        "held": (is_hours, "hours by name", False),
    },
    EventKind.JUDGED: {
        "finalists": (is_judged, "a list of finalists", True),
        "winner": (_is_winner, "the number of a trial, or the name of a policy", True),
        "verdict": _TEXT,
        "complete": (is_flag, "true or false", True),
        "options": _MAPPING,
    },
    EventKind.NOTE: {"text": _SAID_TEXT},
}
"""The fields of each kind of event: the check, its description, and whether the field is required."""

_OF_TRIALS = (
    EventKind.REPORT,
    EventKind.TRIAL_RETRY,
    EventKind.CHECKPOINTS_DROPPED,
    EventKind.TRIAL_END,
    EventKind.TRIAL_WAIT,
    EventKind.TRIAL_PLACED,
    EventKind.TUNED,
)
