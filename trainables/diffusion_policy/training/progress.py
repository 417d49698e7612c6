"""State of a training run between steps, sums between reports, and the detection of divergence."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainables.interface import TrainableError

__all__ = ["DivergedError", "Interval", "Progress"]

DIVERGED_LOSS = 100.0
"""An untrained network's loss stays near the first one; this many times that value is an explosion."""


class DivergedError(TrainableError):
    """The loss or a gradient is not finite, or the loss exploded; the message names step and value."""

    reason = "diverged"


@dataclass
class Progress:
    """The loop's state from step to step, besides tensors.

    Attributes:
        step: Optimiser steps done.
        saved_step: Step of the newest checkpoint.
        first_loss: Loss of the first report; an explosion is a multiple of it.
        best: Best value of the objective so far.
        due: The reports that may not have been received, as JSON values: that of the newest checkpoint, and
            those before it that wait for an evaluation (`trainables.diffusion_policy.training.beside`).
    """

    step: int = 0
    saved_step: int = 0
    first_loss: float | None = None
    best: float | None = None
    due: list[dict[str, Any]] = field(default_factory=list)
    data: str = ""

    def check_loss(self, loss: float) -> None:
        """Stop a run whose loss exploded without becoming infinite."""
        if self.first_loss is None:
            self.first_loss = loss
        bound = DIVERGED_LOSS * max(1.0, min(self.first_loss, DIVERGED_LOSS))
        if loss > bound:
            problem = (
                f"the loss is {loss:.3g} at step {self.step}; a policy that has learnt nothing has about 1"
            )
            raise DivergedError(f"{problem}. Lower optimizer.lr, or lengthen lr_scheduler.warmup_steps.")

    def improves(self, metrics: Mapping[str, float], objective: tuple[str, str] | None) -> bool:
        """Whether these metrics are the best so far; if so, their objective becomes the best value."""
        if objective is None:
            candidates = (("rollout/avg_max_reward", "maximize"), ("eval/action_mse", "minimize"))
            objective = next((pair for pair in candidates if pair[0] in metrics), candidates[1])
        name, goal = objective
        if name not in metrics:
            return self.best is None
        value = metrics[name]
        better = self.best is None or (value > self.best if goal == "maximize" else value < self.best)
        if better:
            self.best = value
        return better

    def to_json(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {
            "saved_step": self.saved_step,
            "first_loss": self.first_loss,
            "best": self.best,
            "due": self.due,
            "data": self.data,
        }

    @staticmethod
    def from_json(step: int, values: Mapping[str, Any]) -> Progress:
        """Restore the state from JSON values."""
        due = values["due"] or []
        return Progress(
            step,
            values["saved_step"],
            values["first_loss"],
            values["best"],
            [due] if isinstance(due, dict) else due,  # earlier versions kept one report
            values.get("data", ""),
        )


@dataclass
class Interval:
    """Sums since the last report, on the device, so that the loop does not wait for it at every step.

    Attributes:
        device: Device of the sums.
        steps: Optimiser steps since the last report.
        wait_s: Seconds spent waiting for data.
        checked: Of these steps, so many are known to have been finite.
        skipped: Of these steps, the loss scaler skipped so many because a gradient overflowed.
    """

    device: torch.device
    steps: int = 0
    wait_s: float = 0.0
    checked: int = 0
    loss: Tensor = field(init=False)
    grad_norm: Tensor = field(init=False)
    skipped: Tensor = field(init=False)
    start_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start a new interval."""
        self.steps, self.wait_s, self.checked = 0, 0.0, 0
        self.loss = torch.zeros((), device=self.device)
        self.grad_norm = torch.zeros((), device=self.device)
        self.skipped = torch.zeros((), device=self.device)
        self.start_s = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that this lasts."""
        since_s = time.perf_counter()
        try:
            yield
        finally:
            self.start_s += time.perf_counter() - since_s

    def add_loss(self, loss: Tensor) -> None:
        """Add a (part of a) step's loss."""
        self.loss += loss.float()

    def add_grad_norm(self, grad_norm: Tensor, *, scaled: bool) -> None:
        """Add a step's gradient norm; this ends the step.

        Args:
            grad_norm: The norm before clipping.
            scaled: Whether there is a loss scale: a step with an infinite norm is then skipped, not counted.
        """
        norm = grad_norm.float()
        if scaled:
            finite = torch.isfinite(norm)
            self.skipped += finite.logical_not()
            norm = torch.where(finite, norm, 0.0)
        self.grad_norm += norm
        self.steps += 1

    def check_finite(self, step: int, policy: nn.Module, *, scaled: bool) -> None:
        """Stop if a loss or a gradient is not finite, and name it.

        Args:
            step: The step that has just been computed.
            policy: Its gradients are searched for the one that is not finite.
            scaled: Whether there is a loss scale: gradients may then overflow, and only the loss counts.
        """
        numbers = self.loss if scaled else self.loss + self.grad_norm
        if bool(torch.isfinite(numbers)):
            self.checked = self.steps
            return
        first = step - self.steps + 1 + self.checked
        when = f"at step {step}" if first >= step else f"between steps {first} and {step}"
        raise DivergedError(
            f"{self._culprit(policy)} is not finite {when}. Lower optimizer.lr, or check the data."
        )

    def _culprit(self, policy: nn.Module) -> str:
        if not bool(torch.isfinite(self.loss)):
            weights = [n for n, p in policy.named_parameters() if not bool(torch.isfinite(p).all())]
            behind = (
                f" (weights no longer finite: {weights[0]} and {len(weights) - 1} more)" if weights else ""
            )
            return f"the loss{behind}"
        gradients = [(n, p.grad) for n, p in policy.named_parameters() if p.grad is not None]
        bad = [name for name, gradient in gradients if not bool(torch.isfinite(gradient).all())]
        return f"the gradient of {bad[0]} (and of {len(bad) - 1} more)" if bad else "the gradient"

    def average_over(self, world_size: int) -> None:
        """Average the loss over the ranks; the gradient's norm is the same on all of them."""
        if world_size > 1:
            dist.all_reduce(self.loss)
            self.loss /= world_size

    def metrics(self, step: int, batch_size: int, samples: int, lr: float) -> dict[str, float]:
        """The interval's metrics; ``train/grad_norm`` is 0 if every step was skipped.

        Args:
            step: Optimiser steps done.
            batch_size: Samples per step, over all workers.
            samples: Samples of the training split, for the epoch.
            lr: Learning rate.
        """
        # Divided on the device, in float32: the numbers are the same as without a loss scale.
        counted = (self.steps - self.skipped).clamp(min=1)
        loss, grad_norm = torch.stack([self.loss / max(self.steps, 1), self.grad_norm / counted]).tolist()
        elapsed_s = max(time.perf_counter() - self.start_s, 1e-9)
        measured = {
            "train/loss": loss,
            "train/grad_norm": grad_norm,
            "train/lr": lr,
            "train/samples_per_s": self.steps * batch_size / elapsed_s,
            "train/data_wait_fraction": self.wait_s / elapsed_s,
            "trial/step": float(step),
            "trial/epoch": step * batch_size / samples,
        }
        if self.device.type == "cuda":
            measured["train/gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
        return measured
