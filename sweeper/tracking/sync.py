"""Upload the missing data of a sweep to MLflow, or all of its data to another server."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sweeper.errors import UserError
from sweeper.layout import LOCK, STATE
from sweeper.masking import safe_uri
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.spec.sweep import is_store
from sweeper.tracking.also.feeder import Feeders
from sweeper.tracking.state import Delivery
from sweeper.tracking.tracker import Tracker

__all__ = ["SyncResult", "sync_sweep"]

OTHERS_S = 600.0


@dataclass(frozen=True)
class SyncResult:
    """The result of an upload.

    Attributes:
        uri: The server or database, without a password.
        complete: Whether nothing is missing.
        by_driver: Whether the sweep runs, so that its driver uploads the missing data.
        events: How many events are missing.
        artifacts: How many files are missing.
        refused: How many requests MLflow rejected for good.
        problem: Why, in one line.
        others: What trackers beside MLflow are missing, in a sentence each.
    """

    uri: str
    complete: bool
    by_driver: bool
    events: int
    artifacts: int
    refused: int
    problem: str
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.by_driver:
            return (
                f"The sweep is running, and its driver uploads the missing data to {self.uri}: "
                f"{self.events} events and {self.artifacts} files at the moment."
            )
        delivery = Delivery(self.complete, self.events, self.artifacts, self.refused, self.problem)
        return "\n".join([f"{self.uri}: {delivery}", *self.others])


def sync_sweep(folder: Path, to: str | None, tell: Callable[[str], object]) -> SyncResult:
    """Upload the missing data of a sweep to MLflow.

    Args:
        folder: The sweep's folder.
        to: Another server or database; None for the one of the sweep.
        tell: Receives messages about the progress.

    Raises:
        SweepNotFoundError: If the folder contains no sweep.
        UserError: If no MLflow server or database can be used at this address.
    """
    sweep = read_sweep(folder)
    own, experiment = sweep.spec["tracking"]["uri"], sweep.spec["tracking"]["experiment"]
    if to is not None:
        if not is_store(to):
            raise UserError(
                f"--to: {to!r} is not an address of an MLflow server or database. Use http://HOST:5000, "
                "sqlite:///PATH/mlflow.db or postgresql://... A folder is not supported."
            )
        # A separate state file: the sweep's own server may be missing other data.
        place = hashlib.sha256(to.encode()).hexdigest()[:12]
        return _send(Tracker(folder, to, experiment, state=f"mlflow-{place}.json"), tell)
    tracker = Tracker(folder, own, experiment, state=STATE)
    try:
        with FileLock(folder / LOCK, timeout=0):
            result = _send(tracker, tell)
            return dataclasses.replace(result, others=_feed_others(sweep, tell))
    except Timeout:
        return _result(tracker, tracker.delivery(), by_driver=True)


def _feed_others(sweep: SweepState, tell: Callable[[str], object]) -> tuple[str, ...]:
    """Pass what is missing to the trackers beside MLflow; returns what is still missing."""
    names = sweep.spec["tracking"].get("also", ())
    if not names:
        return ()
    tell(f"Passing the rest to {', '.join(names)} …")
    feeders = Feeders(sweep.folder, names)
    feeders.start()
    return tuple(feeders.close(OTHERS_S))


def _send(tracker: Tracker, tell: Callable[[str], object]) -> SyncResult:
    tracker.start()
    delivery = tracker.send_all(
        lambda left: tell(f"Uploading {left.events} events and {left.artifacts} files …")
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
