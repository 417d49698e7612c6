"""Batches of a run by step: a pure function of (seed, step), fetched one step ahead.

What is random is drawn on the CPU, whatever the device: a GPU's generator gives other numbers, and gives the
parts of a batch other crops than the whole, so that gradient accumulation would change the training. The
numbers are few. They are copied to a GPU from pinned memory, and the loop does not wait for that.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trainables.dataset.windows import Windows
from trainables.diffusion_policy.network.noise import draw_timesteps
from trainables.features import ACTION

__all__ = ["CROPS", "LOTS", "NOISE", "TIMESTEPS", "Batch", "BatchStream", "Part"]

LOTS = "augmentation"
"""Random numbers in [0, 1) for the changes of the pictures."""
NOISE = "noise"
TIMESTEPS = "timesteps"
CROPS = "crop_offsets"
"""Name of the crops (B, S, 2) in a batch for which they have been drawn already; see `GraphedStep`."""

PAD = "action_is_pad"
_NOISE, _CROPS, _LOTS = 1, 2, 3  # separate the seeds


@dataclass(frozen=True)
class Part:
    """The share of a batch that goes through the network at once.

    Attributes:
        batch: Raw values under LeRobot's names, ``noise`` and ``timesteps``, on the device; perhaps ``LOTS``.
        weight: Its share of the step's loss.
        generator: Draws the crops; the parts of a step share it, in order.
    """

    batch: dict[str, Tensor]
    weight: float | Tensor
    generator: torch.Generator


@dataclass(frozen=True)
class Batch:
    """This rank's share of a step's batch.

    Attributes:
        values: Raw values under LeRobot's names, ``noise`` (B, T, A) and ``timesteps`` (B,), on the device;
            B is the batch size divided by the number of ranks.
        generator: Draws this step's crops.
    """

    values: dict[str, Tensor]
    generator: torch.Generator

    def split(self, parts: int, *, masked: bool) -> Iterator[Part]:
        """Cut the batch into equal parts, as gradient accumulation needs.

        Args:
            parts: Number of parts; divides the batch.
            masked: Whether the loss leaves padded actions out: then a part counts by its valid actions, so
                that the sum over the parts is the loss of the whole.
        """
        chunks = {name: value.chunk(parts) for name, value in self.values.items()}
        valid = self.values[PAD].logical_not().sum() if masked else None
        for number in range(parts):
            part = {name: pieces[number] for name, pieces in chunks.items()}
            weight = 1.0 / parts if valid is None else part[PAD].logical_not().sum() / valid
            yield Part(part, weight, self.generator)


class BatchStream:
    """The batches of a run, by step; the next one is gathered while the device computes.

    Position ``p`` of the endless sequence of shuffled epochs is sample ``order(seed, p // n)[p % n]``;
    step ``s`` takes the positions from ``s * batch_size`` on, and each rank its slice. So the order depends
    neither on the step at which a run was interrupted nor on the number of workers.

    Args:
        windows: The training samples.
        batch_size: Samples per step over all ranks.
        seed: Seed of order and noise.
        rank: This process's rank.
        world_size: Number of ranks; divides ``batch_size``.
        device: Device of the batches.
        num_train_timesteps: Timesteps are drawn below this.
        time_sampling: How a flow draws them; None for a diffusion.
        lots: Cameras whose pictures are changed, and random numbers that each needs; None: none.
    """

    def __init__(
        self,
        windows: Windows,
        batch_size: int,
        *,
        num_train_timesteps: int,
        seed: int,
        rank: int,
        world_size: int,
        device: torch.device,
        time_sampling: str | None = None,
        lots: tuple[int, int] | None = None,
    ) -> None:
        self._windows = windows
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._share = batch_size // world_size
        self._own = slice(rank * self._share, (rank + 1) * self._share)
        self._device = device
        self._timesteps = num_train_timesteps
        self._time_sampling = time_sampling
        self._lots = lots
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[dict[str, Tensor]]] | None = None
        self._orders: dict[int, np.ndarray] = {}
        self._generator = torch.Generator()

    def batch(self, step: int) -> Batch:
        """This rank's share of the batch of a step (counted from 0)."""
        if self._ahead is not None and self._ahead[0] == step:
            values = self._ahead[1].result()
        else:
            values = self._gather(step)
        self._ahead = (step + 1, self._thread.submit(self._gather, step + 1))
        on_device = {name: value.to(self._device, non_blocking=True) for name, value in values.items()}
        return Batch(on_device, self._generator.manual_seed(self._seed_of(_CROPS, step, self._rank)))

    def close(self) -> None:
        """End the thread that prefetches batches."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def numbers(self, step: int) -> np.ndarray:
        """Sample numbers of this rank's share of a step."""
        first = step * self._batch_size + self._rank * self._share
        epochs, places = np.divmod(np.arange(first, first + self._share), len(self._windows))
        return np.concatenate(
            [self._order(int(epoch))[places[epochs == epoch]] for epoch in np.unique(epochs)]
        )

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            # Steps only increase: an epoch is not needed again once the second one after it has begun.
            self._orders = {kept: order for kept, order in self._orders.items() if kept >= epoch - 1}
            self._orders[epoch] = self._windows.order(self._seed, epoch)
        return self._orders[epoch]

    def _gather(self, step: int) -> dict[str, Tensor]:
        values = self._windows.gather(self.numbers(step))
        values |= self._noise(step, tuple(values[ACTION].shape[1:]))
        if self._lots is not None:
            values[LOTS] = self._draw_lots(step, *self._lots)
        if self._device.type == "cuda":
            # Pinned memory lets the copy run beside the computation.
            return {name: value.pin_memory() for name, value in values.items()}
        return values

    def _noise(self, step: int, action_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the whole step's noise on every rank and take this rank's share.

        So neither the number of workers nor gradient accumulation changes a sample's noise.
        """
        # A separate generator: this runs in parallel with the step before, which draws its crops.
        generator = torch.Generator().manual_seed(self._seed_of(_NOISE, step))
        noise = torch.randn((self._batch_size, *action_shape), generator=generator)
        timesteps = draw_timesteps(self._batch_size, self._timesteps, self._time_sampling, generator)
        return {NOISE: noise[self._own], TIMESTEPS: timesteps[self._own]}

    def _draw_lots(self, step: int, cameras: int, count: int) -> Tensor:
        """Draw the whole step's random numbers for pictures, as `_noise` does: (B, S, L) of this rank.

        The first of all samples are drawn first, so that numbers added later change none.
        """
        generator = torch.Generator().manual_seed(self._seed_of(_LOTS, step))
        lots_LBS = torch.rand((count, self._batch_size, cameras), generator=generator)
        return lots_LBS[:, self._own].permute(1, 2, 0).contiguous()

    def _seed_of(self, *key: int) -> int:
        state = np.random.SeedSequence([self._seed, *key]).generate_state(1, np.uint64)[0]
        return int(state >> np.uint64(1))
