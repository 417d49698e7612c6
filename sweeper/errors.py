"""The errors that the service raises on purpose.

::

    SweeperError                 exit code 1: the sweep, or a part of the machinery, failed
    ├── TrialError               one trial failed; has a stable reason
    ├── TrackingError            MLflow or the journal cannot be written
    ├── StudyBusyError           the study cannot be read or written at the moment
    ├── SweepDamagedError        the journal of a sweep contradicts itself
    └── UserError                exit code 2: the user's input is wrong
        ├── SpecError            the space file or an override; contains every fault with its line
        ├── ExpressionError      the text of a condition or constraint
        ├── ResourceError        not enough CPUs, GPUs or disk
        ├── SweepExistsError     the folder already contains another sweep of that name
        └── SweepNotFoundError   the sweep does not exist
            └── SweepNotStartedError   its launch has not recorded anything

Every `SweeperError` is shown to the user as a short report, without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "FREE_SPACE",
    "INTERRUPTED",
    "ExpressionError",
    "ResourceError",
    "SpecError",
    "SpecFault",
    "StudyBusyError",
    "SweepDamagedError",
    "SweepExistsError",
    "SweepNotFoundError",
    "SweepNotStartedError",
    "SweeperError",
    "TrackingError",
    "TrialError",
    "UserError",
]


INTERRUPTED = 130
"""The exit code after Ctrl-C or SIGTERM, as shells have it."""
FREE_SPACE = "Free some space, then resume the sweep."
"""The remedy for a full disk, in messages."""


class SweeperError(Exception):
    """Base of the service's errors. ``exit_code`` is the exit code of the command."""

    exit_code = 1


class TrialError(SweeperError):
    """One trial failed.

    Attributes:
        reason: One stable word, as in `trainables.interface.TrainableError`.
    """

    def __init__(self, message: str, reason: str = "error") -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[type[TrialError], tuple[str, str]]:
        return (type(self), (str(self), self.reason))


class TrackingError(SweeperError):
    """Results cannot be recorded."""


class StudyBusyError(SweeperError):
    """The study cannot be read or written at the moment: its file is locked, or its disk full."""


class SweepDamagedError(SweeperError):
    """The journal of a sweep contradicts itself: it was damaged, or another program wrote it."""


class UserError(SweeperError):
    """The user's input is wrong; the message contains the remedy."""

    exit_code = 2


class ResourceError(UserError):
    """The sweep needs more than the machine or the cluster has."""


class SweepExistsError(UserError):
    """The folder already contains another sweep of that name."""


class SweepNotFoundError(UserError):
    """The sweep does not exist."""


class SweepNotStartedError(SweepNotFoundError):
    """A launch has created the folder of a sweep, but recorded nothing in it.

    Args:
        message: The problem with this folder, and what to do.
        starting: Whether the launch runs, and may still record something.
    """

    def __init__(self, message: str, *, starting: bool) -> None:
        super().__init__(message)
        self.starting = starting


class ExpressionError(UserError):
    """A condition or constraint cannot be read, or has no value for a configuration."""


@dataclass(frozen=True)
class SpecFault:
    """One thing wrong with a space file or an override.

    Attributes:
        place: ``file:line``, or the override as it was typed.
        line: Line in the file; 0 for overrides and for the file as a whole.
        name: The wrong part, as a dotted path from the top of the file; may be empty.
        problem: What is wrong, with the offending value.
        remedy: What is allowed and what to do; may be empty.
    """

    place: str
    line: int
    name: str
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        name = f"{self.name}: " if self.name else ""
        return f"{self.place}: {name}{self.problem}" + (f" {self.remedy}" if self.remedy else "")


class SpecError(UserError):
    """The space file or its overrides are wrong; contains every fault that was found."""

    def __init__(self, faults: Sequence[SpecFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[SpecFault, ...]]]:
        return (type(self), (self.faults,))
