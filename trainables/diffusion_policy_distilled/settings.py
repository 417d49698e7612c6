"""The fields of the distillation, and the fields of the student that follow from them. Standard library only.

The student's diffusion process has exactly as many timesteps as the student has steps. So its sampler is DDIM
with every timestep, which LeRobot has too, whatever the teacher's process is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS
from trainables.diffusion_policy.finetuning.compatibility import differ, shown
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig
from trainables.interface import Fault, FieldInfo

__all__ = [
    "DISTILL_FIELDS",
    "NOT_INHERITED",
    "DistillSettings",
    "as_plain",
    "distill_faults",
    "settings_of",
    "teacher_faults",
]

STEPS, TEACHER_STEPS, LOSS = "distill.steps", "distill.teacher_steps", "distill.loss"
LOSSES = ("mse", "huber")

DISTILL_FIELDS: Mapping[str, FieldInfo] = {
    info.name: info
    for info in (
        FieldInfo(STEPS, "int", 1, minimum=1, maximum=4, unit="steps", doc="Denoising steps of the student."),
        FieldInfo(
            TEACHER_STEPS,
            "int",
            16,
            minimum=1,
            maximum=10_000,
            unit="steps",
            doc="DDIM steps (trailing) with which the teacher draws the actions that the student learns.",
        ),
        FieldInfo(
            LOSS,
            "str",
            "mse",
            choices=LOSSES,
            doc="Distance of the student's actions from the teacher's; huber counts large ones less.",
        ),
    )
}
"""The fields that `diffusion_policy` does not have, by dotted name."""

_OWN = ("policy.beta_schedule", "policy.beta_start", "policy.beta_end", "policy.warm_start_steps")
"""The student's noise levels and warm start: free, but not the teacher's, which are for many timesteps."""
_TEACHER_FIELDS = (
    "policy.horizon",
    "policy.normalization_visual",
    "policy.normalization_state",
    "policy.normalization_environment_state",
    "policy.normalization_action",
)
"""Fields in which student and teacher must agree, besides those that the weights fix."""


@dataclass(frozen=True)
class DistillSettings:
    """How a student is distilled.

    Attributes:
        steps: Denoising steps of the student.
        teacher_steps: DDIM steps of the teacher.
        loss: One of ``LOSSES``.
    """

    steps: int
    teacher_steps: int
    loss: str

    def to_flat(self) -> dict[str, Any]:
        """Every field by its dotted name."""
        return {STEPS: self.steps, TEACHER_STEPS: self.teacher_steps, LOSS: self.loss}


def settings_of(config: Mapping[str, Any]) -> DistillSettings:
    """The settings of a configuration of dotted names, which `distill_faults` found legal."""
    values = {name: config.get(name, info.default) for name, info in DISTILL_FIELDS.items()}
    return DistillSettings(int(values[STEPS]), int(values[TEACHER_STEPS]), str(values[LOSS]))


def _decided(steps: int) -> dict[str, Any]:
    """The fields of the student that the distillation decides, by dotted name."""
    return {
        "policy.prediction_type": "sample",
        "policy.time_sampling": "uniform",
        "policy.noise_scheduler_type": "DDIM",
        "policy.num_train_timesteps": steps,
        "policy.sampler": "DDIM",
        "policy.num_inference_steps": steps,
        "policy.timestep_spacing": None,
        "policy.stats": "checkpoint",
        "policy.reinit_mismatched": False,
        "eval.sampler": "DDIM",
        "eval.num_inference_steps": steps,
    }


NOT_INHERITED = frozenset(_decided(1)) | frozenset(_OWN)
"""Fields of the student that are never the teacher's."""


def as_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The student as a configuration of `diffusion_policy`: its fields alone, the decided ones included."""
    rest = {name: value for name, value in config.items() if name not in DISTILL_FIELDS}
    own = {name: FIELDS[name].default for name in _OWN}
    return {**own, **rest, **_decided(settings_of(config).steps)}


def distill_faults(config: Mapping[str, Any]) -> list[Fault]:
    """What is wrong with the fields of the distillation, and with fields that it decides."""
    faults = [
        fault
        for name, info in DISTILL_FIELDS.items()
        if name in config
        for fault in info.faults(config[name])
    ]
    if config.get("policy.path") is None:
        remedy = "Set it to a trained policy: a trial's folder, a checkpoint, LeRobot's folder, a hub id."
        faults.append(Fault("policy.path", "no teacher is named.", remedy))
    if faults:
        return faults
    settings = settings_of(config)
    if settings.teacher_steps < settings.steps:
        problem = f"{settings.teacher_steps} steps of the teacher are fewer than the student's."
        remedy = f"Use at least {STEPS} = {settings.steps}; 16 is usual."
        faults.append(Fault(TEACHER_STEPS, problem, remedy))
    faults += [
        Fault(
            name,
            f"{shown(config[name])} is not possible: a student of {STEPS} = {settings.steps} has "
            f"{shown(value)}.",
            "Remove the field.",
        )
        for name, value in _decided(settings.steps).items()
        if name in config and differ(config[name], value)
    ]
    return faults


def teacher_faults(config: Mapping[str, Any], teacher: PretrainedConfig) -> list[Fault]:
    """Why a student cannot learn from a teacher.

    Args:
        config: Values by dotted name, which `distill_faults` found legal.
        teacher: The checkpoint of ``policy.path``.
    """
    taught = {name: teacher.values.get(name, FIELDS[name].default) for name in _TEACHER_FIELDS}
    faults = [
        Fault(
            name,
            f"{shown(config[name])} differs from the teacher's, {shown(value)}.",
            "Remove the field: the student has the teacher's value.",
        )
        for name, value in taught.items()
        if name in config and differ(config[name], value)
    ]
    timesteps = teacher.values.get("policy.num_train_timesteps", FIELDS["policy.num_train_timesteps"].default)
    asked = settings_of(config).teacher_steps
    if asked > timesteps:
        remedy = f"Use at most {timesteps} (its policy.num_train_timesteps)."
        faults.append(Fault(TEACHER_STEPS, f"{asked} is too many for the teacher.", remedy))
    return faults
