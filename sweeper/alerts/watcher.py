"""Alerts from another process than the driver, which cannot tell that it died or hangs itself."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from sweeper.alerts.messages import lost_alert, silent_alert
from sweeper.alerts.sender import deliver, was_told
from sweeper.alerts.silence import last_sign, silent_s
from sweeper.records.sweep_state import SweepState
from sweeper.spec.alerts import AlertsSpec

__all__ = ["Watcher"]

LOOK_S = 5.0
GRACE_S = 60.0
"""The driver sends its own alert of silence first, if it lives."""


class Watcher:
    """Sends an alert if a sweep that is watched falls silent, or if its driver dies.

    Args:
        spec: Who hears of it.
        sweep: The sweep; another thread applies the journal's events to it.
    """

    def __init__(self, spec: AlertsSpec, sweep: SweepState) -> None:
        self._spec = spec
        self._sweep = sweep
        self._told = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def close(self, *, died: bool) -> None:
        """End; first tell that the driver died, if it did."""
        self._stop.set()
        if died and "failed" in self._spec.on:
            host = str(self._sweep.driver.get("host", ""))
            deliver(self._spec, lost_alert(self._sweep, host), folder=self._folder)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look(time.time())

    def look(self, now: float) -> None:
        """Tell of silence that the driver has not told of, once until something is heard again."""
        since, silent = last_sign(self._sweep), silent_s(self._sweep, now)
        if "silent" not in self._spec.on or since == self._told:
            return
        if silent < 60 * self._spec.silent_minutes + GRACE_S:
            return
        self._told = since
        if not was_told(self._sweep.folder, "silent", since):
            deliver(self._spec, silent_alert(self._sweep, silent), since, self._folder)

    @property
    def _folder(self) -> Path | None:
        """The sweep's folder; None if it is on another machine."""
        return self._sweep.folder if self._sweep.folder.is_dir() else None
