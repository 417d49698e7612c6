"""What a repair changes, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.files import listed
from trainables.interface import Change, Finding, Severity

__all__ = ["RepairLog", "in_episodes"]


class RepairLog:
    """Collects the changes, and what has no certain repair."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.remaining: list[Finding] = []

    def change(self, check: str, where: str, problem: str, done: str, episodes: Iterable[int] = ()) -> None:
        """Note a change; for its parts see `Change`."""
        self.changes.append(Change(check, where, problem, done, tuple(sorted(set(episodes)))))

    def remains(
        self,
        check: str,
        severity: Severity,
        where: str,
        problem: str,
        why: str,
        remedy: str,
        episodes: Iterable[int] = (),
    ) -> None:
        """Note what is not repaired: ``why`` no repair is certain, and what the user can do."""
        found = tuple(sorted(set(episodes)))
        self.remaining.append(Finding(check, severity, where, problem, why, remedy, found))

    def unreadable(self, error: DatasetError) -> None:
        """Note the faults of an error that leaves nothing to write."""
        for fault in error.faults:
            self.remains(
                "unreadable_dataset",
                "error",
                fault.where,
                fault.problem,
                "It cannot be read, so nothing can be repaired.",
                fault.remedy or "Fetch the dataset again.",
                fault.episodes,
            )

    def has(self, check: str) -> bool:
        """Whether a check is among what remains."""
        return any(found.check == check for found in self.remaining)

    def ordered(self) -> tuple[Finding, ...]:
        """What remains, errors first."""
        order = ("error", "warning", "note", "fine")
        return tuple(sorted(self.remaining, key=lambda found: order.index(found.severity)))


def in_episodes(episodes: Sequence[int]) -> str:
    """``episode 3``, or ``episodes [3, 7]``."""
    return f"episode {episodes[0]}" if len(episodes) == 1 else f"episodes {listed(sorted(episodes))}"
