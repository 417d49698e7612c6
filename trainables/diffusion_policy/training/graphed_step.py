"""An optimiser step as one CUDA graph: forward, backward, clipping and the optimiser in a single launch.

A small network spends most of a step on launching kernels. A graph launches them all at once, on buffers that
stay in their places. Before a step its batch, its crops and its learning rates are copied into these buffers.
What is random is drawn before that, as without a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.diffusion_policy.config.sections import TrainConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.training.objective import Objective
from trainables.diffusion_policy.training.optimizer import clip_gradients
from trainables.diffusion_policy.training.stream import CROPS
from trainables.interface import TrainContext, silent

__all__ = ["GraphedStep", "why_no_graph"]

WARM_UP = 3
"""Steps before the recording, in which libraries choose algorithms, and they and the optimiser allocate."""


class Recording(Protocol):
    """Recorded work of a GPU."""

    def replay(self) -> None:
        """Do the work again, on the same memory."""
        ...


Recorder = Callable[[Callable[[], None], torch.device], Recording]


def record(work: Callable[[], None], device: torch.device) -> Recording:
    """Record what ``work`` asks of the GPU, without doing it."""
    graph = torch.cuda.CUDAGraph()
    # Only this thread is restricted: another one gathers the next batch into pinned memory meanwhile.
    with torch.cuda.device(device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
        work()
    return graph


def why_no_graph(settings: TrainConfig, context: TrainContext, objective: Objective) -> str:
    """Say why the steps of a run cannot be recorded as a CUDA graph; empty if they can."""
    if not context.device.startswith("cuda"):
        return f"a CUDA graph needs a GPU, and the device is {context.device}"
    if context.world_size > 1:
        return f"the gradients of {context.world_size} workers are exchanged within a step"
    if settings.gradient_accumulation_steps > 1:
        return f"a step has {settings.gradient_accumulation_steps} passes (train.gradient_accumulation_steps)"
    if settings.precision == "fp16":
        return "the loss scale of train.precision: fp16 is adapted between the passes"
    if not objective.recordable:
        return "what this trainable minimises draws numbers or reads values within a step"
    return ""


class _NoDraws:
    """The generator while a step is recorded: a number that is drawn then would be the same in all steps."""

    def __getattr__(self, name: str) -> Any:
        raise TypeError("a number is drawn within the step")


class GraphedStep:
    """Optimiser steps, the first ones one by one, then recorded once and replayed.

    Equal to plain steps to rounding: the learning rate is a float32 on the device. If the recording fails,
    all steps are done without it. The average of the weights is updated outside.

    Args:
        policy: What is trained.
        loss_of: The loss of a batch as a module.
        optimizer: The fused optimiser of the policy.
        autocast: The arithmetic of the forward pass.
        bound: The largest norm of the gradients.
        progress: Learns why a recording failed.
        recorder: Records a step.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        loss_of: nn.Module,
        optimizer: torch.optim.Optimizer,
        autocast: AbstractContextManager[Any],
        bound: float,
        progress: Callable[[str], None] = silent,
        recorder: Recorder | None = None,
    ) -> None:
        self._policy = policy
        self._loss_of = loss_of
        self._optimizer = optimizer
        self._autocast = autocast
        self._bound = bound
        self._progress = progress
        self._recorder = recorder or record
        self._device = policy.device
        self._clips = optimizer if self._device.type == "cuda" else None
        self._side: torch.cuda.Stream | None = None
        if self._device.type == "cuda":
            self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._plain_steps = 0
        self._values: dict[str, Tensor] = {}
        self._lrs: list[Tensor] = []
        self._recording: Recording | None = None
        self._failed = False

    def __call__(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Do a step.

        Args:
            batch: What `DiffusionPolicy.loss` takes, ``noise`` and ``timesteps``, on the device; of the same
                shapes in every step.
            generator: Draws the crops.

        Returns:
            The loss, and the norm of the gradients before clipping. The next step may write over them.
        """
        values = self._with_crops(batch, generator)
        if self._recording is None and not self._failed and self._plain_steps >= WARM_UP:
            self._record(values)
        if self._recording is None:
            self._plain_steps += 1
            with self._beside():
                return self._step(values, generator)
        for name, buffer in self._values.items():
            buffer.copy_(values[name])
        for lr, group in zip(self._lrs, self._optimizer.param_groups, strict=True):
            lr.fill_(group["lr"])
        self._recording.replay()
        return self._loss, self._norm

    def _with_crops(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Mapping[str, Tensor]:
        crops = self._policy.draw_crop_offsets(len(next(iter(batch.values()))), generator)
        return batch if crops is None else {**batch, CROPS: crops}

    def _step(self, values: Mapping[str, Tensor], generator: Any) -> tuple[Tensor, Tensor]:
        self._optimizer.zero_grad(set_to_none=True)
        with self._autocast:
            loss: Tensor = self._loss_of(values, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradients(self._policy, self._bound, self._clips)
        self._optimizer.step()
        return loss.detach(), norm

    def _record(self, values: Mapping[str, Tensor]) -> None:
        """Record a step; it is not done by that."""
        self._values = {name: value.contiguous().clone() for name, value in values.items()}
        self._lrs = [torch.zeros((), device=self._device) for _ in self._optimizer.param_groups]
        # The gradients of the recorded step have memory that belongs to the graph.
        self._optimizer.zero_grad(set_to_none=True)
        try:
            with self._recordable_optimizer():
                self._recording = self._recorder(self._work, self._device)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever it is, a step can be done without a recording
            self._failed = True
            reason = " ".join(str(error).split())[:200]
            self._progress(f"training without a CUDA graph: the step cannot be recorded: {reason}")

    def _work(self) -> None:
        self._loss, self._norm = self._step(self._values, _NoDraws())

    @contextmanager
    def _recordable_optimizer(self) -> Iterator[None]:
        """Let the optimiser read its learning rates from the device, where a replayed step finds new ones."""
        groups = self._optimizer.param_groups
        before = [(group["lr"], group["capturable"]) for group in groups]
        for group, lr in zip(groups, self._lrs, strict=True):
            group["lr"], group["capturable"] = lr, True
        try:
            yield
        finally:
            for group, (lr, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = lr, capturable

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """Work on another stream than the default one, as a step must before it is recorded."""
        if self._side is None:
            yield
            return
        current = torch.cuda.current_stream(self._device)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            yield
        current.wait_stream(self._side)
