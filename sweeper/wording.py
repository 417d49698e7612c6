"""The line that tells most, of what others said at length."""

from __future__ import annotations

__all__ = ["first_line", "last_line"]


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def last_line(text: str, otherwise: str = "") -> str:
    """The last line of a text that is not blank, without its full stop; ``otherwise`` where there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else otherwise
