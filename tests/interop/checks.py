"""What was compared, what came out, and what would have been allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        part: The part of the comparison it belongs to.
        what: What was compared.
        measured: What came out, in words.
        passed: Whether that is as it should be; None where it is only told.
    """

    part: str
    what: str
    measured: str
    passed: bool | None


class Checks:
    """Collects comparisons, and tells each as it comes."""

    def __init__(self, console: Console) -> None:
        self.made: list[Check] = []
        self._console = console
        self._part = ""

    def begin(self, part: str) -> None:
        """Name the part to which the next comparisons belong."""
        self._part = part
        self._console.print(f"[bold]{part}[/bold]")

    def tell(self, what: str, measured: str) -> None:
        """Note a number that nothing depends on."""
        self._add(what, measured, None)

    def holds(self, what: str, passed: bool, measured: str) -> None:
        """Note something that is so or not."""
        self._add(what, measured, bool(passed))

    def same(self, what: str, pairs: Mapping[str, tuple[Any, Any]]) -> None:
        """Compare values that must be equal, shape and kind included: by name, ours and theirs."""
        equal = total = 0
        wrong = []
        for name, (ours, theirs) in pairs.items():
            first, second = np.asarray(ours), np.asarray(theirs)
            total += first.size
            if first.shape != second.shape or first.dtype.kind != second.dtype.kind:
                wrong.append(f"{name}: {first.dtype}{first.shape} against {second.dtype}{second.shape}")
                continue
            same = int((first == second).sum())
            equal += same
            if same < first.size:
                wrong.append(f"{name}: {first.size - same:,} of {first.size:,} differ")
        measured = "; ".join(wrong) or f"{equal:,} of {total:,} values in {len(pairs)} columns"
        self._add(what, measured, not wrong and total > 0)

    def close(self, what: str, ours: Any, theirs: Any, allowed: float, unit: str = "") -> None:
        """Compare numbers that may differ by rounding: the largest difference, and what is allowed."""
        first, second = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        if first.shape != second.shape or not (np.isfinite(first).all() and np.isfinite(second).all()):
            self._add(what, f"{first.shape} against {second.shape}, or not finite", False)
            return
        largest = float(np.abs(first - second).max()) if first.size else 0.0
        self._add(what, f"largest difference {largest:.1e}{unit} (allowed {allowed:g})", largest <= allowed)

    @property
    def failed(self) -> Sequence[Check]:
        """The comparisons that did not come out as they should."""
        return [check for check in self.made if check.passed is False]

    def table(self) -> Table:
        """All comparisons, for a person."""
        table = Table(title="LeRobot and this project", title_justify="left")
        for column in ("part", "what", "measured", ""):
            table.add_column(column, overflow="fold")
        previous = ""
        for check in self.made:
            part = "" if check.part == previous else check.part
            table.add_row(part, check.what, check.measured, _mark(check.passed))
            previous = check.part
        return table

    def as_json(self) -> list[dict[str, Any]]:
        """All comparisons, for a script."""
        return [asdict(check) for check in self.made]

    def _add(self, what: str, measured: str, passed: bool | None) -> None:
        self.made.append(Check(self._part, what, measured, passed))
        self._console.print(f"  {_mark(passed)} {what}: {measured}")


def _mark(passed: bool | None) -> str:
    return {True: "[green]ok[/green]", False: "[red]FAILED[/red]", None: "[dim]–[/dim]"}[passed]
