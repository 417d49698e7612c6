"""What optimiser steps change: weights, their average, the optimiser, its schedule and the loss scale."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.training import checkpoint as checkpoints
from trainables.diffusion_policy.training.augmentation.augment import Augmentation
from trainables.diffusion_policy.training.ema import Ema
from trainables.diffusion_policy.training.graphed_step import GraphedStep, why_no_graph
from trainables.diffusion_policy.training.objective import Objective
from trainables.diffusion_policy.training.optimizer import build_optimizer, clip_gradients
from trainables.diffusion_policy.training.progress import Interval, Progress
from trainables.diffusion_policy.training.stream import Batch
from trainables.features import PolicyFeatures
from trainables.interface import TrainContext

__all__ = ["Learner", "distributed", "synchronised"]

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Learner:
    """A policy and all that its training keeps from one optimiser step to the next.

    Args:
        config: The configuration to train.
        context: Rank, number of ranks and device of this process.
        objective: What is minimised.
        policy: The policy with its first weights, on the device.
        features: The features that it has.
        statistics: The statistics that it normalises with.
        augmented: Changes the pictures of a batch.

    Attributes:
        policy: The policy.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        context: TrainContext,
        objective: Objective,
        policy: DiffusionPolicy,
        features: PolicyFeatures,
        statistics: Any,
        augmented: Augmentation,
    ) -> None:
        self.policy = policy
        self._config, self._context, self._objective = config, context, objective
        self._features, self._statistics, self._augmented = features, statistics, augmented
        self._device = torch.device(context.device)
        if config.freezes_encoder:
            policy.freeze_encoders(backbones_only=config.policy.path is None)
        policy.set_gradient_checkpointing(config.train.gradient_checkpointing)
        ema = config.ema
        self._ema = Ema(policy, ema.inv_gamma, ema.power, ema.max_decay, ema.every) if ema.enabled else None
        optimizer = dataclasses.replace(config.optimizer, lr=config.learning_rate)
        self._optimizer = build_optimizer(policy, optimizer)
        schedule = config.lr_scheduler
        self._lr_scheduler = get_scheduler(
            "constant_with_warmup" if schedule.name == "constant" else schedule.name,
            self._optimizer,
            num_warmup_steps=schedule.warmup_steps,
            num_training_steps=config.train.steps,
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.train.precision == "fp16")
        # A loss scaler has the same place in the fused optimiser.
        clips = self._device.type == "cuda" and not self._scaler.is_enabled()
        self._clipping = self._optimizer if clips else None
        self._graphed: GraphedStep | None = None

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def averaged(self) -> AbstractContextManager[Any]:
        """A context in which the policy has the weights that it is judged by."""
        if self._ema is None or not self._config.policy.use_ema:
            return nullcontext()
        return self._ema.applied(self.policy)

    # -- checkpoints

    def restore(self, snapshot: checkpoints.Snapshot) -> None:
        """Continue with the state of a checkpoint."""
        checkpoints.load_weights(self.policy, snapshot.model)
        if self._ema is not None and snapshot.ema is not None:
            self._ema.load_state_dict(snapshot.ema)
        if snapshot.optimizer is not None:
            checkpoints.load_optimizer_tensors(self.policy, self._optimizer, snapshot.optimizer)
        self._scaler.load_state_dict(snapshot.progress["loss_scale"])
        # The schedule is a function of the step alone.
        scheduler = self._lr_scheduler
        scheduler.load_state_dict(scheduler.state_dict() | {"last_epoch": snapshot.step})
        factors = zip(self._optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, base, factor in factors:
            group["lr"] = base * factor(snapshot.step)

    def snapshot(self, progress: Progress) -> checkpoints.Snapshot:
        """The state after ``progress.step`` steps; after the last one without the optimiser's."""
        at_end = progress.step >= self._config.train.steps
        return checkpoints.Snapshot(
            step=progress.step,
            config=self._config,
            objective=self._objective.settings,
            features=self._features,
            statistics=self._statistics,
            model=self.policy.state_dict(),
            ema=None if self._ema is None else self._ema.state_dict(),
            optimizer=None if at_end else checkpoints.optimizer_tensors(self.policy, self._optimizer),
            progress=progress.to_json() | {"loss_scale": self._scaler.state_dict()},
        )

    # -- steps

    def get_ready(self) -> None:
        """Prepare the steps: compiled, synchronised over the ranks, or recorded, as configured."""
        settings = self._config.train
        if settings.compile is True:
            self.policy.compile_network(settings.compile_mode)
        loss = self._objective.loss_of(self.policy)
        self._loss_of = distributed(loss, self._context, settings.gradient_accumulation_steps)
        self._autocast = _autocast(settings.precision, self._device)
        if settings.compile == "graph" and self._can_be_recorded():
            norm, progress = self._config.optimizer.grad_clip_norm, self._context.progress
            self._graphed = GraphedStep(
                self.policy, self._loss_of, self._optimizer, self._autocast, norm, progress
            )

    def _can_be_recorded(self) -> bool:
        """Whether steps become a CUDA graph; reports why if not."""
        reason = why_no_graph(self._config.train, self._context, self._objective)
        if reason:
            self._context.progress(f"training without a CUDA graph: {reason}")
        return not reason

    def step(self, number: int, batch: Batch, interval: Interval) -> None:
        """Do an optimiser step; `get_ready` comes first.

        Args:
            number: The number of the step, from 1.
            batch: Its samples.
            interval: Takes the loss and the norm of the gradients.

        Raises:
            DivergedError: If one of them is no longer finite. On a GPU only the first step of an interval is
                looked at; the caller looks at the last.
        """
        if self._graphed is not None:
            # It does the optimiser's step, too.
            loss, grad_norm = self._graphed(self._augmented(batch.values), batch.generator)
            interval.add_loss(loss)
        else:
            grad_norm = self._backward(batch, interval)
        interval.add_grad_norm(grad_norm, scaled=self._scaler.is_enabled())
        if self._device.type == "cpu" or interval.steps == 1:
            # On a GPU this waits for the device.
            self.check_finite(number, interval)
        if self._graphed is None:
            self._scaler.step(self._optimizer)
            self._scaler.update()
        self._lr_scheduler.step()
        if self._ema is not None:
            self._ema.update(self.policy)

    def _backward(self, batch: Batch, interval: Interval) -> torch.Tensor:
        """The gradients of a batch, clipped; returns their norm before that."""
        self._optimizer.zero_grad(set_to_none=True)
        passes = self._config.train.gradient_accumulation_steps
        parts = batch.split(passes, masked=self._config.policy.do_mask_loss_for_padding)
        for number, part in enumerate(parts, start=1):
            values = self._augmented(part.batch)
            with synchronised(self._loss_of, last=number == passes):
                with self._autocast:
                    loss = self._loss_of(values, part.generator) * part.weight
                self._scaler.scale(loss).backward()
            interval.add_loss(loss.detach())
        self._scaler.unscale_(self._optimizer)
        return clip_gradients(self.policy, self._config.optimizer.grad_clip_norm, self._clipping)

    def check_finite(self, number: int, interval: Interval) -> None:
        """Raise DivergedError if a loss or a gradient of the interval until step ``number`` is not finite."""
        interval.check_finite(number, self.policy, scaled=self._scaler.is_enabled())


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


def distributed(loss: nn.Module, context: TrainContext, passes: int) -> nn.Module:
    """Let the ranks of a worker group average their gradients; a single process needs nothing for it.

    Args:
        loss: The loss of a batch as a module.
        context: Rank, number of ranks and device of this process.
        passes: Backward passes per optimiser step.
    """
    if context.world_size == 1:
        return loss
    on_gpu = context.device.startswith("cuda")
    return DistributedDataParallel(
        loss,
        device_ids=[torch.device(context.device).index] if on_gpu else None,
        # Gradients are parts of the buffers that are sent: they are neither copied nor held twice.
        gradient_as_bucket_view=True,
        # Every step uses the same parameters. Its first step would send the gradients of every pass.
        static_graph=passes == 1,
    )


def synchronised(loss: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """A context for a forward and a backward pass: only the last of a step sends gradients."""
    if last or not isinstance(loss, DistributedDataParallel):
        return nullcontext()
    return loss.no_sync()
