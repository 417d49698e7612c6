"""The errors that the service raises on purpose.

::

    SweeperError                 exit code 1: the sweep, or a part of the machinery, failed
    ├── TrialError               one trial failed; carries a stable reason
    ├── TrackingError            MLflow or the journal cannot be written
    ├── StudyBusyError           the study cannot be read or written at the moment
    ├── SweepDamagedError        the journal of a sweep says what cannot be
    └── UserError                exit code 2: something the user gave is wrong
        ├── SpecError            the space file or an override; carries every fault with its line
        ├── ExpressionError      the text of a condition or constraint
        ├── ResourceError        more CPUs, GPUs or disk wanted than there are
        ├── SweepExistsError     a sweep of that name lies in the folder already
        └── SweepNotFoundError   no sweep lies where one was looked for
            └── SweepNotStartedError   its launch has not recorded anything

Whatever derives from `SweeperError` is told to the user as a short report, without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
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


class SweeperError(Exception):
    """Base of the service's errors. ``exit_code`` is what the command line ends with."""

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
    """The journal of a sweep says what cannot be: it was damaged, or is none of ours."""


class UserError(SweeperError):
    """What the user gave is wrong, and the message says how to put it right."""

    exit_code = 2


class ResourceError(UserError):
    """The sweep wants more than the machine or the cluster has."""


class SweepExistsError(UserError):
    """A sweep of that name lies in the folder already, and it is another one."""


class SweepNotFoundError(UserError):
    """No sweep lies where one was looked for."""


class SweepNotStartedError(SweepNotFoundError):
    """A launch has created the folder of a sweep, and recorded nothing in it.

    Args:
        message: The same about this folder, and what to do.
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
        name: What is at fault, as a dotted path from the top of the file; may be empty.
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
    """The space file or its overrides cannot be swept; carries every fault that was found."""

    def __init__(self, faults: Sequence[SpecFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[SpecFault, ...]]]:
        return (type(self), (self.faults,))
