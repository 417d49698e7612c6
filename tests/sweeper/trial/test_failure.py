"""Why a trial failed is found out, and written where a person and a program find it."""

from __future__ import annotations

import ast
import errno
from pathlib import Path

import pytest

from sweeper.errors import TrialError
from sweeper.trial.failure import Failure, failure_of, failure_of_group, read_failure, write_failure
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


@pytest.mark.slow
def test_every_reason_that_a_trainable_of_ours_gives_is_in_the_documentation() -> None:
    package = Path(__file__).parents[3] / "trainables"
    found = {
        statement.value.value
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for statement in node.body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        if [target.id for target in statement.targets if isinstance(target, ast.Name)] == ["reason"]
    }
    assert {"data", "diverged", "out_of_disk", "environment"} <= found
    page = (Path(__file__).parents[3] / "docs" / "reliability.md").read_text()
    assert [reason for reason in sorted(found) if f"| `{reason}` |" not in page] == []


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def from_disk(reason: type[Exception]) -> Exception:
    """An error that was raised because a disk was full."""
    try:
        try:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", "cache/frames.bin")
        except OSError as error:
            raise reason("the frames cannot be written") from error
    except reason as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out_of_memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            "out_of_host_memory",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_host_memory"),
        (RuntimeError('I/O error: Os { code: 28, message: "No space left on device" }'), "out_of_disk"),
        (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "out_of_disk"),
        (from_disk(StrangeError), "out_of_disk"),
    ],
)
def test_what_libraries_say_of_memory_and_disks_is_understood(error: Exception, reason: str) -> None:
    assert failure_of(error, Path("worker.log")).reason == reason


def test_torchs_own_words_for_too_little_memory_are_understood() -> None:
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert failure_of(caught.value, Path("worker.log")).reason == "out_of_host_memory"


def test_safetensors_own_words_for_a_full_disk_are_understood(small_disk: Path) -> None:
    import torch
    from safetensors.torch import save_file

    with pytest.raises(Exception, match="space") as caught:
        save_file({"weights": torch.zeros(2_000_000)}, small_disk / "model.safetensors")
    assert failure_of(caught.value, Path("worker.log")).reason == "out_of_disk"


class GroupError(Exception):
    """What a worker group's controller raises."""

    def __init__(self, failures: dict[int, Exception]) -> None:
        self.worker_failures = failures
        super().__init__("Training failed due to worker errors")


class ActorDiedError(Exception):
    """Named as Ray's."""

    def __init__(self, text: str, preempted: bool = False) -> None:
        self.preempted = preempted
        super().__init__(text)


CRASH = "The actor is dead. Worker exit detail: Worker unexpectedly exits with a connection error code 2."


@pytest.mark.parametrize(
    ("failures", "written", "reason", "words"),
    [
        ({0: ActorDiedError(CRASH)}, None, "lost", "worker 0 is gone: its process was killed, or crashed"),
        ({0: ActorDiedError("The node died", True)}, None, "preempted", "taken back"),
        (
            {1: ActorDiedError("killed due to memory pressure (OOM)")},
            None,
            "out_of_host_memory",
            "worker 1 was",
        ),
        # The others fail in their collective calls, and say so.
        (
            {0: RuntimeError("Connection closed"), 1: ActorDiedError(CRASH)},
            Failure("error", "RuntimeError: Connection closed"),
            "lost",
            "worker 1 is gone",
        ),
        # A rank that knows why may be what ended the other.
        ({1: ActorDiedError(CRASH)}, Failure("out_of_memory", "CUDA out of memory"), "out_of_memory", "CUDA"),
        ({0: ValueError("no")}, Failure("error", "ValueError: no"), "error", "ValueError: no"),
    ],
)
def test_a_rank_that_is_gone_explains_what_the_others_say(
    failures: dict[int, Exception], written: Failure | None, reason: str, words: str
) -> None:
    failure = failure_of_group(GroupError(failures), written, Path("worker.log"))
    assert failure.reason == reason
    assert words in failure.message


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("OutOfDiskError: Local disk is full"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_worker_that_could_not_write_down_that_its_disk_is_full_is_understood(error: Exception) -> None:
    found = failure_of_group(GroupError({0: error}), None, Path("worker.log"))
    assert found.reason == "out_of_disk"
