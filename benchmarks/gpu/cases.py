"""Cases, and the rows that they become: one measurement each, which may fail without stopping the others."""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

__all__ = ["Case", "NotHereError", "Row", "Setting", "Value", "compared", "read_rows", "run_cases"]

Value = float | str
Status = Literal["ok", "differs", "failed", "skipped"]
DIFFERENCE, TOLERANCE = "difference", "tolerance"


class NotHereError(Exception):
    """A case cannot be tried on this machine; says why."""


@dataclass(frozen=True)
class Setting:
    """Where the kit runs, and how large.

    Attributes:
        device: ``cuda:0`` or ``cpu``.
        quick: Tiny networks and few repetitions, to try the kit itself.
        folder: For datasets, caches and trials.
    """

    device: str
    quick: bool
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class Case:
    """One measurement.

    Attributes:
        name: What is measured, for a person.
        measure: Does it. With ``difference`` and ``tolerance`` among the values the one must not exceed the
            other.
    """

    name: str
    measure: Callable[[], Mapping[str, Value]]


@dataclass(frozen=True)
class Row:
    """What became of a case.

    Attributes:
        case: Its name.
        status: ``ok``; ``differs``, if a tolerance is exceeded; ``failed``, with an error; ``skipped``.
        values: What was measured, by name with its unit.
        seconds: How long the case took, with everything that it needs.
        note: The error, or why it was skipped.
        details: The end of the traceback.
    """

    case: str
    status: Status
    values: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""
    details: str = ""


def compared(difference: float, tolerance: float, **more: Value) -> dict[str, Value]:
    """The values of a comparison."""
    return {DIFFERENCE: difference, TOLERANCE: tolerance, **more}


def run_cases(cases: Iterable[Case], rows: Path, setting: Setting, deadline: float) -> None:
    """Run cases one after the other, and append each one's row to a file as soon as it is known.

    Args:
        cases: What to run, the most important first.
        rows: JSON lines.
        setting: Where the kit runs.
        deadline: When no further case is begun, by ``time.monotonic``.
    """
    for case in cases:
        if time.monotonic() > deadline:
            row = Row(case.name, "skipped", note="the time was up")
        else:
            row = _run(case)
            _forget(setting)
        with rows.open("a") as file:
            file.write(json.dumps(dataclasses.asdict(row)) + "\n")
        print(f"  {row.status:8}{row.seconds:6.1f} s  {row.case}  {row.note}", flush=True)


def read_rows(rows: Path) -> list[Row]:
    """Read the rows that `run_cases` wrote; a line that was cut off is left out."""
    found = []
    for line in rows.read_text().splitlines() if rows.exists() else []:
        try:
            found.append(Row(**json.loads(line)))
        except ValueError:
            continue
    return found


def _run(case: Case) -> Row:
    start_s = time.perf_counter()
    try:
        values = case.measure()
    except NotHereError as why:
        return Row(case.name, "skipped", note=str(why))
    except Exception as error:  # whatever it is, the next case may work
        text = " ".join(str(error).split())
        details = traceback.format_exc()[-3000:]
        took_s = time.perf_counter() - start_s
        return Row(case.name, "failed", {}, took_s, f"{type(error).__name__}: {text}"[:300], details)
    status: Status = "ok" if _within(values) else "differs"
    return Row(case.name, status, values, time.perf_counter() - start_s)


def _within(values: Mapping[str, Value]) -> bool:
    if DIFFERENCE not in values:
        return True
    difference, tolerance = float(values[DIFFERENCE]), float(values[TOLERANCE])
    return math.isfinite(difference) and difference <= tolerance


def _forget(setting: Setting) -> None:
    """Leave nothing of a case behind: no memory, no compiled code, no count of compilations."""
    torch.compiler.reset()
    gc.collect()
    if setting.on_gpu:
        torch.cuda.empty_cache()
