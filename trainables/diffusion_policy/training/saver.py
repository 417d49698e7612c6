"""Checkpoints written on another thread, and the reports that wait for them.

A checkpoint is copied into the host's memory and written while the training continues. Nothing is reported
before it is on the disk: a report that names a checkpoint, and every later one, waits until the checkpoint is
complete. So a process that dies at any moment leaves what one that writes in the loop leaves, except that it
has computed some steps more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from trainables.diffusion_policy.training.checkpoint import Checkpoints, Snapshot
from trainables.interface import Report

__all__ = ["CheckpointSaver"]


class CheckpointSaver:
    """Writes the checkpoints of one run, one at a time, and releases its reports in order.

    All ranks of a worker group call it alike, though only rank 0 writes: `pending` is the same on all of
    them, so that all release the same reports at the same step.

    Args:
        store: Where the checkpoints are written.
        rank: This process's rank.
        world_size: Number of ranks.
    """

    def __init__(self, store: Checkpoints, rank: int = 0, world_size: int = 1) -> None:
        self._store = store
        self._rank = rank
        self._world_size = world_size
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[Path] | None = None
        self._held: list[Report] = []
        self._copies: dict[str, Tensor] = {}
        self.pending = False

    def save(self, snapshot: Snapshot | None, *, best: bool, evaluating: bool = False) -> Path | None:
        """Copy the state of a run and start to write it; the last checkpoint must have been released.

        Args:
            snapshot: The state, whose tensors may change from now on; None on all ranks but the first.
            best: Whether it is the best so far.
            evaluating: Whether its evaluation is still to come.

        Returns:
            The folder that the checkpoint will have; None on all ranks but the first.
        """
        if self.pending:
            raise RuntimeError("the last checkpoint was not released")
        self.pending = True
        if snapshot is None:
            return None
        copied = self._on_host(snapshot)
        self._writing = self._thread.submit(self._store.save, copied, best=best, evaluating=evaluating)
        return self._store.folder_of(snapshot.step)

    def hold(self, report: Report) -> None:
        """Take a report that must not overtake the checkpoint."""
        self._held.append(report)

    def is_written(self) -> bool:
        """Whether nothing is being written by this rank."""
        return self._writing is None or self._writing.done()

    def wait(self) -> None:
        """Wait until nothing is being written by this rank.

        Raises:
            OSError: If the checkpoint could not be written.
        """
        if self._writing is not None:
            self._writing.result()

    def release(self) -> Iterator[Report]:
        """Wait until the checkpoint is on the disk, and give the reports that were held, in their order.

        Raises:
            OSError: If the checkpoint could not be written.
        """
        self.wait()
        self._writing = None
        if self._world_size > 1:
            dist.barrier()
        self.pending = False
        held, self._held = self._held, []
        yield from held

    def release_at_error(self) -> Iterator[Report]:
        """Give what a run reported before it failed, as `release` does.

        Only the process that failed is here: with several ranks nothing can be reported any more.
        """
        if self._world_size == 1:
            yield from self.release()

    def close(self) -> None:
        """Wait until the checkpoint is on the disk, and end the thread."""
        self._thread.shutdown(wait=True)

    def _on_host(self, snapshot: Snapshot) -> Snapshot:
        copied = dataclasses.replace(
            snapshot,
            model=self._copied("model", snapshot.model),
            ema=None if snapshot.ema is None else self._copied("ema", snapshot.ema),
            optimizer=None if snapshot.optimizer is None else self._copied("optimizer", snapshot.optimizer),
        )
        if any(tensor.is_cuda for tensor in snapshot.model.values()):
            torch.cuda.synchronize()
        return copied

    def _copied(self, group: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy tensors into memory that every checkpoint uses again; pinned if they come from a GPU."""
        copies = {}
        for name, tensor in tensors.items():
            key = f"{group}/{name}"
            if key not in self._copies:
                pinned = tensor.is_cuda
                self._copies[key] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
            copies[name] = self._copies[key].copy_(tensor.detach(), non_blocking=True)
        return copies
