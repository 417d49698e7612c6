"""What can go wrong in an export to a format of other runtimes."""

from __future__ import annotations

from trainables.interface import TrainableError

__all__ = ["FormatError", "first_line"]


class FormatError(TrainableError):
    """A policy cannot be exported to a format, or the export differs from the policy."""

    reason = "config"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
