"""Distillation as a trainable: its interface to the sweep service.

Everything but the loss and a few fields is that of `trainables.diffusion_policy`: the loop, checkpoints,
evaluation, export. Fields and checks work without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig
from trainables.diffusion_policy.finetuning.resolve import resolve, resolve_faults
from trainables.diffusion_policy.finetuning.starting_point import read_start
from trainables.diffusion_policy.network.shapes import parameter_count
from trainables.diffusion_policy.trainable import DiffusionPolicyTrainable
from trainables.diffusion_policy_distilled.settings import (
    DISTILL_FIELDS,
    NOT_INHERITED,
    as_plain,
    distill_faults,
    settings_of,
    teacher_faults,
)
from trainables.interface import ConfigError, Fault, FieldInfo, Report, TrainContext

__all__ = ["TRAINABLE", "DistilledPolicyTrainable"]

_BYTES_TEACHER = 4  # a weight of the teacher, in float32


class DistilledPolicyTrainable(DiffusionPolicyTrainable):
    """A Diffusion Policy of few steps that learns the actions of a trained one, its teacher."""

    name = "diffusion_policy_distilled"
    fields: Mapping[str, FieldInfo] = {**FIELDS, **DISTILL_FIELDS}

    def faults(self, config: Mapping[str, Any], workers: int = 1) -> list[Fault]:
        """Check one whole configuration, field by field and across fields, and whether it fits the teacher.

        Reads no data. Of the teacher, it reads ``config.json``.
        """
        faults = distill_faults(config)
        if faults:
            return faults
        faults = resolve_faults(as_plain(config), workers)
        if faults:
            return faults
        teacher = read_start(str(config["policy.path"]))
        return [] if teacher is None else teacher_faults(config, teacher)

    def resolved(self, config: Mapping[str, Any]) -> DiffusionConfig:
        """The student's configuration, completed from its teacher, checked and built.

        Raises:
            ConfigError: With every fault of the configuration.
        """
        faults = self.faults(config)
        if faults:
            raise ConfigError(faults)
        return resolve(as_plain(config))

    def inherited(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values that the teacher decides; empty if it cannot be read."""
        found = super().inherited({name: config[name] for name in config if name not in DISTILL_FIELDS})
        return {name: value for name, value in found.items() if name not in NOT_INHERITED}

    def memory_gb(self, config: Mapping[str, Any]) -> float:
        """The least memory that each process holds while it trains, in gigabytes; the teacher's included."""
        teacher = parameter_count(self.resolved(config).policy, action_dim=1, vector_dim=1, cameras=0)
        return super().memory_gb(config) + teacher * _BYTES_TEACHER / 1e9

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        """Distil with ``config``; yields a report at every logging step and at every evaluation.

        Raises:
            ConfigError: If the configuration is wrong in itself, for its dataset or for its teacher.
            DatasetError: If the dataset cannot be read.
            DivergedError: If the loss or a gradient is no longer finite, or the loss explodes.
            OutOfMemoryError: If the device's memory does not suffice.
        """
        from trainables.diffusion_policy.training.train import train
        from trainables.diffusion_policy_distilled.distillation import Distillation

        student = self.resolved(config)
        distillation = Distillation(settings_of(config), str(student.policy.path), context.progress)
        return train(student, context, distillation)


TRAINABLE = DistilledPolicyTrainable()
