"""Why a trial failed is found out, and written where a person and a program find it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sweeper.errors import TrialError
from sweeper.failure import Failure, failure_of, read_failure, write_failure
from trainables.interface import TrainableError


def test_the_first_failure_is_the_one_that_is_kept(tmp_path: Path) -> None:
    write_failure(tmp_path, Failure("diverged", "the loss is nan", "line 1", "worker.log"))
    write_failure(tmp_path, Failure("error", "connection reset by rank 0"))
    assert read_failure(tmp_path) == Failure("diverged", "the loss is nan", "line 1", "worker.log")
    assert (tmp_path / "error.txt").read_text().startswith("diverged: the loss is nan\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["error.json", "error.txt"]


class StrangeError(TrainableError):
    reason = "environment"


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        (StrangeError("no display"), "environment", "no display"),
        (TrialError("train/loss is nan at step 4", "diverged"), "diverged", "train/loss is nan at step 4"),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "out_of_disk",
            "OSError: [Errno 28] No space left on device",
        ),
        (MemoryError(), "out_of_host_memory", "MemoryError"),
        (KeyError("policy.horizon"), "error", "KeyError: 'policy.horizon'"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "error", "UnicodeDecodeError: "),
    ],
)
def test_failures_are_sorted_by_what_was_raised(error: Exception, reason: str, message: str) -> None:
    failure = failure_of(error, Path("worker.log"))
    assert failure.reason == reason
    assert failure.message.startswith(message)
