"""What a trainable is, what it reports, and what it may be able to do beside training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from trainables.interface.fields import Fault, FieldInfo, Metric

__all__ = [
    "CanReduceMemory",
    "DerivedNumber",
    "DerivesNumbers",
    "EstimatesGpuNeed",
    "EstimatesMemory",
    "GpuNeed",
    "HasPresets",
    "NamesPlaces",
    "Proposal",
    "ProposedField",
    "ProposesSpaces",
    "Report",
    "SlimsCheckpoints",
    "StartsFromCheckpoints",
    "TrainContext",
    "Trainable",
    "silent",
]


@dataclass(frozen=True)
class Report:
    """A trainable's report at a step.

    Attributes:
        step: Optimiser steps done; never decreases within a run.
        metrics: Finite numbers by name.
        artifacts: Files worth keeping with the run, by name (``rollout/video`` -> path).
        checkpoint: Folder of the checkpoint that was written at this step, or None.
        final: Whether this is the last report of the run.
    """

    step: int
    metrics: Mapping[str, float]
    artifacts: Mapping[str, Path] = field(default_factory=dict)
    checkpoint: Path | None = None
    final: bool = False


def _never() -> bool:
    return False


def silent(_message: str) -> None:
    """Ignore a message of progress."""


@dataclass(frozen=True)
class TrainContext:
    """Folders, rank and device of a training process.

    Attributes:
        folder: The trial's folder. Rank 0 writes ``checkpoints/``, ``rollouts/`` and ``config.json`` there.
        cache: Folder for data that all trials of a node share: decoded frames, the built-in datasets.
        rank: Rank of this process in the worker group.
        world_size: Processes in the worker group; above 1 a ``torch.distributed`` group exists already.
        device: ``cpu`` or ``cuda:<index>``.
        threads: Threads that this process may use for computing; 0 leaves torch's setting alone.
        objective: The metric and the direction by which the best checkpoint is chosen; None leaves the choice
            to the trainable.
        resume: Whether to continue from ``folder/checkpoints/last`` if it exists.
        stop_requested: Called once per step; if it returns True the run ends after a checkpoint. With
            several workers the results may differ for a moment: the workers must agree before one stops.
        progress: Receives messages for the user while there is no report yet.
    """

    folder: Path
    cache: Path
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    threads: int = 0
    objective: tuple[str, Literal["minimize", "maximize"]] | None = None
    resume: bool = True
    stop_requested: Callable[[], bool] = _never
    progress: Callable[[str], None] = silent


@runtime_checkable
class Trainable(Protocol):
    """A training that the service can sweep.

    ``fields``, ``aliases``, ``metrics`` and ``faults`` must work without importing torch.
    """

    name: str
    fields: Mapping[str, FieldInfo]
    aliases: Mapping[str, str]
    metrics: Mapping[str, Metric]

    def faults(self, config: Mapping[str, Any], workers: int = 1) -> list[Fault]:
        """Check one whole configuration, field by field and across fields.

        Reads no data. Of a checkpoint that the configuration names, it reads only the description.

        Args:
            config: Values by dotted name; fields that are not named have their defaults.
            workers: Processes that train it together.
        """
        ...

    def preflight(
        self, config: Mapping[str, Any], cache: Path, progress: Callable[[str], None] = silent
    ) -> list[Fault]:
        """Check a configuration against its dataset and environment. Writes only to the cache.

        ``progress`` receives messages about slow steps: a dataset that is fetched or built.
        """
        ...

    def describe(self, config: Mapping[str, Any], cache: Path) -> Mapping[str, Any]:
        """Identify the data of a configuration: fingerprint, revision, split hash, sizes.

        A sweep is resumed only if its data are the same. ``content``, if it is given, identifies them
        independently of their place and of the layout of their files; otherwise ``fingerprint`` does.
        ``checkpoint_content`` identifies the checkpoint that training starts from.
        """
        ...

    def disk_gb(self, config: Mapping[str, Any]) -> float:
        """Estimate how much disk one trial's folder takes, in gigabytes."""
        ...

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        """Train with ``config``; yields a report at every logging step and at every evaluation."""
        ...


@runtime_checkable
class StartsFromCheckpoints(Protocol):
    """A trainable that can start from a checkpoint, which then decides the fields that are not configured."""

    def inherited(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values that a configuration takes from the checkpoint that it names, by dotted name.

        Empty if it names none, or if that cannot be read here. A field that ``config`` names is included
        only if its value is a pointer to a checkpoint, which is followed.
        """
        ...

    def remarks(self, config: Mapping[str, Any], cache: Path | None = None) -> list[str]:
        """Warnings about a legal configuration before it is trained, in a sentence each.

        Args:
            config: Values by dotted name.
            cache: Folder for datasets; None if no dataset may be opened.
        """
        ...


@runtime_checkable
class NamesPlaces(Protocol):
    """A trainable with fields that only name the places of data and checkpoints."""

    places: Sequence[str]
    """Fields that may change when a sweep is resumed, if ``describe`` finds the same content there."""


@runtime_checkable
class SlimsCheckpoints(Protocol):
    """A trainable that can make checkpoints smaller once their run will not continue."""

    def slim(self, checkpoint: Path) -> None:
        """Delete from a checkpoint what only a continuation needs. Does nothing if it is already slim."""
        ...

    def slim_gb(self, config: Mapping[str, Any], checkpoints: int) -> float:
        """Estimate a trial folder's disk space with this number of slim checkpoints, in gigabytes."""
        ...


@runtime_checkable
class CanReduceMemory(Protocol):
    """A trainable that can train the same thing with less memory."""

    def lighter(self, config: Mapping[str, Any], workers: int = 1) -> Mapping[str, Any] | None:
        """The configuration that trains the same with about half the memory for a batch, or None.

        Apart from rounding, the result must be the same, so that the trial stays the same point of the
        space, and a checkpoint of either must be usable by the other.

        Args:
            config: Values by dotted name; what is not named has its default.
            workers: Processes that train it together.
        """
        ...


@runtime_checkable
class EstimatesMemory(Protocol):
    """A trainable that knows the least memory that its training takes."""

    def memory_gb(self, config: Mapping[str, Any]) -> float:
        """The least memory, in gigabytes, that each process holds on its device while it trains.

        Weights, gradients and the optimiser's state, which do not depend on the batch. It must not be an
        overestimate, since a sweep that does not fit is refused.
        """
        ...


@dataclass(frozen=True)
class GpuNeed:
    """What a training process needs of a GPU: an estimate, by which trials share one.

    Attributes:
        memory_gb: Memory with activations, libraries and an evaluation; rather too much than too little.
        busy: Share of the time that a GPU of the middle class would compute, from 0 to 1.
        alone: Why no other training should share its GPU; empty if one may.
    """

    memory_gb: float
    busy: float
    alone: str = ""


@runtime_checkable
class EstimatesGpuNeed(Protocol):
    """A trainable that estimates what its training needs of a GPU; trials of all others have GPUs alone."""

    def gpu_need(self, config: Mapping[str, Any]) -> GpuNeed:
        """Estimate what each process needs while it trains with a legal configuration."""
        ...


@runtime_checkable
class HasPresets(Protocol):
    """A trainable whose configurations can begin with a named set of values."""

    preset_field: str
    """The field that names the set; null: none."""

    def preset(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the values of the set that a configuration names, for fields that it does not name itself.

        Empty if it names none.
        """
        ...


@dataclass(frozen=True)
class ProposedField:
    """A field in a proposed space.

    Attributes:
        name: The dotted name.
        value: Its value; of a searched field ``{"values": [...]}`` or ``{"min": ..., "max": ...}``, with
            ``"log": True`` for a logarithmic scale.
        why: What it is and why it was chosen, in a few words.
        needed: Whether the given configuration cannot be trained without it.
    """

    name: str
    value: Any
    why: str
    needed: bool = False


@dataclass(frozen=True)
class Proposal:
    """A first space for a dataset, or for a training.

    Attributes:
        found: What was read, in a sentence each.
        config: Fixed values. One that the given configuration has too was changed, for the reason stated.
        parameters: What to search, the most important first.
        constraints: Conditions that every combination must satisfy.
        metric: The metric to optimise.
        metric_why: Why.
        stop_metric: The metric by which trials are stopped early.
        trials: How many trials to run.
        remarks: What the user should know, in a sentence each.
    """

    found: tuple[str, ...]
    config: tuple[ProposedField, ...]
    parameters: tuple[ProposedField, ...]
    constraints: tuple[str, ...]
    metric: str
    metric_why: str
    stop_metric: str
    trials: int
    remarks: tuple[str, ...] = ()


@runtime_checkable
class ProposesSpaces(Protocol):
    """A trainable that can propose a first space (`sweeper init`)."""

    def dataset_config(self, root_or_repo_id: str) -> Mapping[str, Any]:
        """Return the configuration that names a dataset."""
        ...

    def propose(
        self,
        config: Mapping[str, Any],
        cache: Path | None,
        progress: Callable[[str], None] = silent,
    ) -> Proposal:
        """Propose a space: what to fix and what to search.

        Args:
            config: What is decided already, by dotted name: a dataset, or the settings of a training.
            cache: Folder for what all processes of a machine share; None: the dataset is not opened, and what
                depends on it is left to its default.
            progress: Receives messages for the user.

        Raises:
            TrainableError: If the dataset cannot be opened.
        """
        ...

    def read_policy(self, stated: Mapping[str, Any]) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Read the description of a policy by another tool.

        Args:
            stated: LeRobot's ``config.json``, or the section ``policy`` of its ``train_config.json``.

        Returns:
            Its values by dotted name, and notes for the user; nothing if it is not readable here.
        """
        ...


@dataclass(frozen=True)
class DerivedNumber:
    """A number that follows from a configuration.

    Attributes:
        name: What it is, as a heading.
        value: The number.
        words: What follows it in a line, e.g. a unit.
    """

    name: str
    value: float
    words: str


@runtime_checkable
class DerivesNumbers(Protocol):
    """A trainable with numbers that follow from a configuration and are shown before it is trained."""

    def derived(self, config: Mapping[str, Any]) -> Sequence[DerivedNumber]:
        """Numbers that follow from the fields that a legal configuration names; opens no dataset."""
        ...
