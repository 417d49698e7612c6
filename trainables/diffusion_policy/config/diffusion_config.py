"""Configuration of a Diffusion Policy: its data, network, training and evaluation.

Frozen dataclasses, one per section (`trainables.diffusion_policy.config.sections`); the dotted name of a
field is ``<section>.<field>``. Standard library only.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainables.diffusion_policy.config.clashes import (
    batch_faults,
    dataset_faults,
    diffusion_faults,
    image_faults,
    network_faults,
    scratch_faults,
    training_faults,
    window_faults,
)
from trainables.diffusion_policy.config.presets import preset_values
from trainables.diffusion_policy.config.sections import (
    AugmentConfig,
    DatasetConfig,
    EmaConfig,
    EvalConfig,
    LrSchedulerConfig,
    OptimizerConfig,
    PolicyConfig,
    RolloutConfig,
    TrainConfig,
)
from trainables.interface import ConfigError, Fault, FieldInfo

__all__ = [
    "ALIASES",
    "FIELDS",
    "AugmentConfig",
    "DatasetConfig",
    "DiffusionConfig",
    "EmaConfig",
    "EvalConfig",
    "LrSchedulerConfig",
    "OptimizerConfig",
    "PolicyConfig",
    "RolloutConfig",
    "TrainConfig",
    "build",
    "combination_faults",
    "config_faults",
    "field_faults",
]


@dataclass(frozen=True)
class DiffusionConfig:
    """The configuration of a training run."""

    dataset: DatasetConfig = dataclasses.field(default_factory=DatasetConfig)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lr_scheduler: LrSchedulerConfig = dataclasses.field(default_factory=LrSchedulerConfig)
    ema: EmaConfig = dataclasses.field(default_factory=EmaConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)

    @property
    def evaluates_at_start(self) -> bool:
        """Whether there is an evaluation before the first step."""
        if self.train.eval_at_start is None:
            return self.policy.path is not None
        return self.train.eval_at_start

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: ``optimizer.lr``, or what follows from it for the batch size."""
        return self.optimizer.lr_of(self.train.batch_size)

    @property
    def freezes_encoder(self) -> bool:
        """Whether the vision encoder keeps the weights that it starts with."""
        return self.optimizer.vision_encoder_lr_multiplier == 0.0

    @staticmethod
    def from_flat(config: Mapping[str, Any]) -> DiffusionConfig:
        """Build a configuration from dotted names; fields that are not named have their defaults.

        The checkpoint of ``policy.path`` is not read: `resolve` completes a configuration from it first.

        Args:
            config: Values by dotted name.

        Raises:
            ConfigError: With every fault of ``config``.
        """
        faults = config_faults(config)
        if faults:
            raise ConfigError(faults)
        return build(config)

    def to_flat(self) -> dict[str, Any]:
        """Every field by its dotted name; tuples of the dataclasses become lists."""
        flat: dict[str, Any] = {}
        for section in dataclasses.fields(self):
            values = getattr(self, section.name)
            for item in dataclasses.fields(values):
                value = getattr(values, item.name)
                flat[f"{section.name}.{item.name}"] = _plain(value)
        return flat


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


_SECTIONS: dict[str, type[Any]] = {
    "dataset": DatasetConfig,
    "policy": PolicyConfig,
    "optimizer": OptimizerConfig,
    "lr_scheduler": LrSchedulerConfig,
    "ema": EmaConfig,
    "train": TrainConfig,
    "augment": AugmentConfig,
    "eval": EvalConfig,
    "rollout": RolloutConfig,
}


def _describe(section: str, item: dataclasses.Field[Any]) -> FieldInfo:
    default = list(item.default) if isinstance(item.default, tuple) else item.default
    return FieldInfo(name=f"{section}.{item.name}", default=default, **item.metadata)


FIELDS: Mapping[str, FieldInfo] = {
    info.name: info
    for section, cls in _SECTIONS.items()
    for info in (_describe(section, item) for item in dataclasses.fields(cls))
}
"""Every field by its dotted name."""
ALIASES: Mapping[str, str] = {
    "batch_size": "train.batch_size",
    "steps": "train.steps",
    "seed": "train.seed",
    "policy.optimizer_lr": "optimizer.lr",
    "policy.optimizer_betas": "optimizer.betas",
    "policy.optimizer_eps": "optimizer.eps",
    "policy.optimizer_weight_decay": "optimizer.weight_decay",
    "policy.scheduler_name": "lr_scheduler.name",
    "policy.scheduler_warmup_steps": "lr_scheduler.warmup_steps",
    "policy.gradient_checkpointing": "train.gradient_checkpointing",
    "policy.compile_model": "train.compile",
    "policy.compile_mode": "train.compile_mode",
    "eval.n_episodes": "rollout.episodes",
    "env.type": "rollout.env",
}
"""LeRobot's names, and the names of these fields here."""


def build(config: Mapping[str, Any]) -> DiffusionConfig:
    """Build a configuration from values that `field_faults` found legal, and those of its preset."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for name, value in {**preset_values(config), **config}.items():
        section, _, item = name.partition(".")
        kind, word = FIELDS[name].kind, FIELDS[name].word
        if isinstance(value, (list, tuple)):
            value = tuple(int(v) if kind == "list[int]" else v for v in value)
        elif value is None or (word and value == word):
            pass
        elif kind == "ranges":
            value = (value,)
        elif kind == "int":
            value = int(value)
        elif kind == "float":
            value = float(value)
        sections[section][item] = value
    return DiffusionConfig(**{section: cls(**sections[section]) for section, cls in _SECTIONS.items()})


def config_faults(config: Mapping[str, Any], workers: int = 1) -> list[Fault]:
    """Every fault of a configuration of dotted names: unknown names, illegal values, values that clash.

    The checkpoint of ``policy.path`` is not read.

    Args:
        config: Values by dotted name.
        workers: Processes that share each batch.
    """
    return field_faults(config) or combination_faults(build(config), workers)


def field_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Unknown names and illegal values of a configuration of dotted names, field by field."""
    faults: list[Fault] = []
    for name, value in config.items():
        if name in FIELDS:
            faults += FIELDS[name].faults(value)
        else:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See docs/configuration.md for every field."
            faults.append(Fault(name, "no field has this name.", hint))
    return faults


def combination_faults(config: DiffusionConfig, workers: int = 1) -> list[Fault]:
    """Values of a configuration that cannot be combined.

    Args:
        config: The configuration; each value is legal in itself.
        workers: Processes that share each batch.
    """
    return [
        *scratch_faults(config.policy, config.optimizer),
        *dataset_faults(config.dataset),
        *window_faults(config.policy, config.eval),
        *network_faults(config.policy),
        *diffusion_faults(config.policy, config.eval),
        *image_faults(config.policy),
        *batch_faults(config.train, workers),
        *training_faults(config.train, config.optimizer, config.lr_scheduler, config.ema),
    ]
