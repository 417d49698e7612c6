"""The thread that sends alerts. Whatever happens to one, the sweep continues."""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.alerts.delivery import DeliveryError, place_of, run_command, send_webhook
from sweeper.alerts.messages import Alert, best_alert, end_alert, silent_alert
from sweeper.alerts.silence import last_sign, silent_s
from sweeper.layout import ALERTS
from sweeper.machines.outage import full_disk
from sweeper.masking import masked
from sweeper.records.events import Event, EventKind
from sweeper.records.ranking import is_better
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.spec.alerts import AlertsSpec, variable_of

__all__ = ["Alerts", "Sent", "deliver", "read_sent", "was_told"]

WAITING = 100
"""Alerts that wait at most; more are dropped."""
LOOK_S = 5.0
"""Seconds between looks whether trials are silent."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sent:
    """One delivery, as it is recorded.

    Attributes:
        event: What happened.
        to: ``command``, or the host of the webhook.
        problem: Why it was not delivered; empty if it was.
        about: For silence: the time of the last sign before it.
        time: When it was tried, in seconds since 1970.
    """

    event: str
    to: str
    problem: str = ""
    about: float = 0.0
    time: float = 0.0


class Alerts:
    """Sends the alerts of a running sweep.

    Args:
        spec: Who hears of what; None for nothing.
        sweep: The sweep as its driver follows it.

    Attributes:
        problem: Why the last alert was not delivered; empty if it was.
    """

    def __init__(self, spec: AlertsSpec | None, sweep: SweepState) -> None:
        self.problem = ""
        self._spec = spec
        self._sweep = sweep
        self._queue: queue.Queue[tuple[Alert, float] | None] = queue.Queue(WAITING)
        self._best: dict[str, float] = {}
        self._silent_since = 0.0
        self._ended = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, if anything is to be sent. The start of the sweep is recorded by then."""
        if self._spec is None:
            return
        self._best = self._sweep.best_so_far()
        name = variable_of(self._spec.webhook)
        if name is not None and self._spec.address() is None:
            self.problem = f"alerts.webhook: the environment variable {name} is not set here"
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Receive an event that was applied to the sweep."""
        ended = event["event"] == EventKind.TRIAL_END and event["status"] == TrialStatus.COMPLETED
        if self._spec is None or not ended:
            return
        objective = self._sweep.objectives[0]
        best = self._sweep.best_so_far()
        value = best.get(objective.name)
        before = self._best.get(objective.name)
        self._best = best
        # The first trial of a sweep is not news.
        if value is not None and before is not None and is_better(value, before, objective.goal):
            self._put(best_alert(self._sweep, self._sweep.trials[event["trial"]]))

    def ended(self, status: SweepStatus, message: str) -> None:
        """Report that the sweep has ended; only the first time counts."""
        if self._spec is None or self._ended:
            return
        self._ended = True
        full = full_disk([self._sweep.folder]) if status == SweepStatus.FAILED else ""
        if not full and status == SweepStatus.FAILED and self._lacked_room(message):
            full = message
        self._put(end_alert(self._sweep, status, message, full))

    def _lacked_room(self, message: str) -> bool:
        reasons = {trial.reason for trial in self._sweep.trials.values()}
        return "There is no room" in message or "out_of_disk" in reasons

    def close(self, deadline_s: float = 15.0) -> None:
        """Wait until what waits was sent, for a while, and end."""
        if self._thread is None:
            return
        self._stop.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(deadline_s)

    def _put(self, alert: Alert, about: float = 0.0) -> None:
        if self._spec is None or alert.event not in self._spec.on:
            return
        try:
            self._queue.put_nowait((alert, about))
        except queue.Full:
            self.problem = f"{WAITING} alerts wait already, and others are dropped"

    def _run(self) -> None:
        assert self._spec is not None
        while True:
            try:
                item = self._queue.get(timeout=LOOK_S)
            except queue.Empty:
                self._look(time.time())
                continue
            if item is None:
                return
            try:
                failed = [
                    one.problem for one in deliver(self._spec, *item, self._sweep.folder) if one.problem
                ]
                self.problem = f"an alert was not delivered: {failed[0]}" if failed else ""
            except Exception as error:
                # A bug here must not end the training.
                _log.exception("an alert was not sent")
                self.problem = f"an alert was not sent: {masked(str(error))}"

    def _look(self, now: float) -> None:
        """Send an alert if nothing was heard for long, once until something is heard again."""
        assert self._spec is not None
        since = last_sign(self._sweep)
        silent = silent_s(self._sweep, now)
        if self._stop.is_set() or silent < 60 * self._spec.silent_minutes or since == self._silent_since:
            return
        self._silent_since = since
        self._put(silent_alert(self._sweep, silent), since)


def deliver(spec: AlertsSpec, alert: Alert, about: float = 0.0, folder: Path | None = None) -> list[Sent]:
    """Send an alert to the webhook and to the command, and record what came of it.

    Args:
        spec: Who hears of it.
        alert: The alert.
        about: For silence: the time of the last sign before it.
        folder: The sweep's folder; None to record nothing.
    """
    found = []
    if spec.webhook is not None:
        address = spec.address()
        if address is None:
            problem = f"the environment variable {variable_of(spec.webhook)} is not set here"
            found.append(Sent(alert.event, "webhook", problem, about, time.time()))
        else:
            found.append(_tried(alert, place_of(address), about, spec, address))
    if spec.command is not None:
        found.append(_tried(alert, "command", about, spec, None))
    for sent in found:
        if sent.problem:
            # Not a warning, which would be printed over the table on the terminal.
            _log.info("an alert (%s) was not delivered to %s: %s", sent.event, sent.to, sent.problem)
        if folder is not None:
            _record(folder, sent)
    return found


def _tried(alert: Alert, to: str, about: float, spec: AlertsSpec, address: str | None) -> Sent:
    problem = ""
    try:
        if address is None:
            run_command(spec.command or "", alert)
        else:
            send_webhook(address, spec.format, alert)
    except (DeliveryError, OSError) as error:
        problem = masked(str(error))
    return Sent(alert.event, to, problem, about, round(time.time(), 3))


def _record(folder: Path, sent: Sent) -> None:
    try:
        with (folder / ALERTS).open("a") as file:
            file.write(json.dumps(vars(sent), ensure_ascii=False) + "\n")
    except OSError as error:  # a full disk, of which the alert may tell
        _log.info("the delivery of an alert was not recorded: %s", error)


def read_sent(folder: Path) -> list[Sent]:
    """The deliveries of a sweep; lines that a crash cut short are left out."""
    try:
        lines = (folder / ALERTS).read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [sent for line in lines if (sent := _sent(line)) is not None]


def _sent(line: str) -> Sent | None:
    try:
        plain: Mapping[str, Any] = json.loads(line)
        sent = Sent(**plain)
    except (ValueError, TypeError):
        return None
    texts = all(isinstance(text, str) for text in (sent.event, sent.to, sent.problem))
    return sent if texts and all(isinstance(n, (int, float)) for n in (sent.about, sent.time)) else None


def was_told(folder: Path, event: str, about: float) -> bool:
    """Whether an alert about the same thing was delivered."""
    return any(sent.event == event and not sent.problem and sent.about == about for sent in read_sent(folder))
