"""Upload missing data of a sweep that ended to MLflow, or all of it to another server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.errors import UserError
from sweeper.layout import LOCK, STATE
from sweeper.masking import safe_uri
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.sweep import is_store
from sweeper.tracking.state import Delivery
from sweeper.tracking.tracker import Tracker

__all__ = ["SyncResult", "sync_sweep"]


@dataclass(frozen=True)
class SyncResult:
    """What came of it.

    Attributes:
        uri: Where the runs are, without a password.
        complete: Whether MLflow has everything.
        by_driver: Whether the sweep runs, and its driver sends what is missing.
        events: Events that are missing in MLflow.
        artifacts: Files that are missing there.
        refused: Requests that it will never accept.
        problem: Why, in one line.
    """

    uri: str
    complete: bool
    by_driver: bool
    events: int
    artifacts: int
    refused: int
    problem: str

    def __str__(self) -> str:
        said = str(Delivery(self.complete, self.events, self.artifacts, self.refused, self.problem))
        if self.by_driver:
            return (
                f"The sweep runs, and its driver sends {self.uri} what it lacks: {self.events} events and "
                f"{self.artifacts} files at the moment."
            )
        return f"{self.uri}: {said}"


def sync_sweep(folder: Path, to: str | None, tell: Callable[[str], object]) -> SyncResult:
    """Upload missing data of a sweep to MLflow.

    Args:
        folder: The sweep's folder.
        to: Another server or database than the sweep's own; None for that one.
        tell: Told how far it is.

    Raises:
        SweepNotFoundError: If no sweep lies there.
        UserError: If MLflow can never be written under this address.
    """
    sweep = read_sweep(folder)
    own, experiment = sweep.spec["tracking"]["uri"], sweep.spec["tracking"]["experiment"]
    if to is not None:
        if not is_store(to):
            raise UserError(
                f"--to: {to!r} is no address of an MLflow store. Use http://HOST:5000, "
                "sqlite:///PATH/mlflow.db or postgresql://...; a folder will not do."
            )
        # How far that server is has a place of its own: the sweep's own server may lack other things.
        place = hashlib.sha256(to.encode()).hexdigest()[:12]
        return _send(Tracker(folder, to, experiment, state=f"mlflow-{place}.json"), tell)
    tracker = Tracker(folder, own, experiment, state=STATE)
    try:
        with FileLock(folder / LOCK, timeout=0):
            return _send(tracker, tell)
    except Timeout:
        return _result(tracker, tracker.delivery(), by_driver=True)


def _send(tracker: Tracker, tell: Callable[[str], object]) -> SyncResult:
    tracker.start()
    delivery = tracker.send_all(
        lambda left: tell(f"{left.events} events and {left.artifacts} files to send …")
    )
    return _result(tracker, delivery)


def _result(tracker: Tracker, delivery: Delivery, *, by_driver: bool = False) -> SyncResult:
    return SyncResult(
        uri=safe_uri(tracker.uri),
        complete=delivery.complete,
        by_driver=by_driver,
        events=delivery.events,
        artifacts=delivery.artifacts,
        refused=delivery.refused,
        problem=delivery.problem,
    )
