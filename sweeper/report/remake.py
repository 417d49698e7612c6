"""Write the report of a sweep in a process of its own: its memory is given back, and its time is limited."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from sweeper.layout import REPORT
from sweeper.text import last_line

__all__ = ["SWITCH", "remake_report"]

SWITCH = "SWEEPER_REPORT"
"""If this environment variable is ``off``, sweeps end without a report."""

LIMIT_S = 300.0
"""How long a report may take: seconds, but the machine may be busy with trials."""


def remake_report(folder: Path, limit_s: float | None = None) -> tuple[Path | None, str]:
    """Write the report of a sweep into its folder. Never raises: a sweep does not fail because of its report.

    Args:
        folder: The sweep's folder.
        limit_s: The longest time that it may take; by default `LIMIT_S`.

    Returns:
        The file, or None; and why it was not written, in a line. Both are empty if reports are switched off.
    """
    if os.environ.get(SWITCH, "").lower() == "off":
        return None, ""
    limit_s = LIMIT_S if limit_s is None else limit_s
    # Ctrl-C is for the sweep that ends: a session of its own keeps it away from this process.
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "sweeper.report", str(folder.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    except OSError as error:
        return None, str(error)
    try:
        _, said = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return None, f"it took longer than {limit_s:.0f} s"
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        return None, last_line(said.decode(errors="replace"), f"exit code {process.returncode}")
    return folder / REPORT, ""


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
