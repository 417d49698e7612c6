"""The seam between a trainable and the caller that runs it. Standard library only.

A *trainable* is something that can be trained with a flat configuration of dotted names
(``{"policy.horizon": 16, ...}``) and reports its progress. The service knows a trainable only through
this module; the trainable knows nothing of the service.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from trainables.episodes import EpisodeRecord, Purpose
from trainables.inspection import BenchRow, Comparison, DenoisingPicture, Latency
from trainables.ranges import parse_choice

__all__ = [
    "ENVIRONMENT",
    "EVAL_EVERY",
    "LOG_EVERY",
    "STEPS",
    "BenchmarksPolicies",
    "BundlesPolicies",
    "CacheEntry",
    "CachesData",
    "CanReduceMemory",
    "Change",
    "ConfigError",
    "DatasetExaminer",
    "DatasetRepairer",
    "DerivedNumber",
    "DerivesNumbers",
    "EstimatesGpuNeed",
    "EstimatesMemory",
    "EvaluatesPolicies",
    "EvaluationContext",
    "Examination",
    "ExportsCheckpoints",
    "ExportsFormats",
    "Fault",
    "FieldInfo",
    "Finding",
    "FormatOptions",
    "FormatParts",
    "FormatPrecision",
    "GivesPolicies",
    "GpuNeed",
    "HasPresets",
    "InspectablePolicy",
    "Metric",
    "NamesPlaces",
    "OpenPolicy",
    "Proposal",
    "ProposedField",
    "ProposesSpaces",
    "Repair",
    "Report",
    "RunningServer",
    "ServablePolicy",
    "ServeOptions",
    "SlimsCheckpoints",
    "StartsFromCheckpoints",
    "TrainContext",
    "Trainable",
    "TrainableError",
    "is_url",
    "silent",
]

Phase = Literal["data", "train", "inference"]
_URL = re.compile(r"[A-Za-z][\w+.:-]+://")

STEPS = "train.steps"
"""By convention the field for the length of a run; the next two are for how often it reports."""
EVAL_EVERY = "train.eval_every"
LOG_EVERY = "train.log_every"
ENVIRONMENT = "rollout.env"
"""By convention the field that names the simulator; null if there is none."""


def is_url(text: str) -> bool:
    """Whether a text is the address of a folder in a store (``s3://bucket/folder``), not a local path."""
    return _URL.match(text) is not None


class TrainableError(Exception):
    """Base of the errors that a trainable raises on purpose.

    Every subclass has a ``reason``: one stable word by which a service classifies failures.
    """

    reason = "error"


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a configuration, as a small report.

    Attributes:
        where: The dotted name of the wrong field, or the wrong file.
        problem: What is wrong, with the offending value.
        remedy: What is allowed and what to do.
        episodes: The episodes that cause it; empty if leaving out episodes is not a remedy.
        files: Every file that is wrong, if there are several.
    """

    where: str
    problem: str
    remedy: str = ""
    episodes: tuple[int, ...] = ()
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" {self.remedy}" if self.remedy else "")


Severity = Literal["error", "warning", "note", "fine"]
"""How serious a finding is, the most serious first."""


@dataclass(frozen=True)
class Finding:
    """One result of a check of a dataset or a machine, as a small report.

    Attributes:
        check: Stable name of the check, e.g. ``truncated_video``.
        severity: ``error`` if training cannot or must not continue, ``warning`` if its results may be worse,
            ``note`` if it is only information, ``fine`` if the check passed.
        where: The feature, the file, the node, or ``cluster``.
        problem: What was found, with numbers.
        why: Why it matters to the policy. Empty for a machine.
        remedy: What to do about it. Empty if nothing needs to be done.
        episodes: The episodes concerned. Empty if all are, or none in particular.
        files: Every file concerned. Empty if it is about numbers or pictures, not about files.
    """

    check: str
    severity: Severity
    where: str
    problem: str
    why: str = ""
    remedy: str = ""
    episodes: tuple[int, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Examination:
    """The result of an examination of a dataset, and how thorough it was.

    Attributes:
        findings: The findings, errors first.
        summary: What was examined, as JSON values: ``version``, ``fps``, ``episodes``, ``frames``,
            ``pictures``, the number that was examined by camera, ``skipped``, what could not be examined, in
            words, and ``exclude_episodes``, the value of that option that leaves no error, or None. Empty if
            nothing could be examined.
    """

    findings: tuple[Finding, ...]
    summary: Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """One change that makes a repaired copy of a dataset differ from the original.

    Attributes:
        check: Stable name of what was wrong, that of the `Finding` if the dataset's check reports it too.
        where: The column, the feature or the file, relative to the dataset's folder.
        problem: What is in the original, with numbers.
        done: What is in the copy instead.
        episodes: The original's numbers of the episodes concerned. Empty if all are, or none in particular.
    """

    check: str
    where: str
    problem: str
    done: str
    episodes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Repair:
    """How a repaired copy of a dataset differs from the original, and what is left to do.

    Attributes:
        changes: What was changed.
        remaining: What was not repaired because no repair is certain; errors first.
        left_behind: Files of the original's folder that are not part of the dataset, relative to it.
        written: Whether there is a copy: not if only the changes were asked for, or if what remains makes
            a dataset impossible.
        summary: The copy, as JSON values: ``version``, ``fps``, ``episodes``, ``frames``, ``size_b``. Empty
            if there can be none.
    """

    changes: tuple[Change, ...]
    remaining: tuple[Finding, ...]
    left_behind: tuple[str, ...]
    written: bool
    summary: Mapping[str, Any]


class ConfigError(TrainableError):
    """The configuration cannot be trained; contains every fault that was found."""

    reason = "config"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Fault, ...]]]:
        return (type(self), (self.faults,))


@dataclass(frozen=True)
class FieldInfo:
    """What a configuration field accepts.

    Attributes:
        name: Dotted name, e.g. ``policy.horizon``.
        kind: ``int``, ``float``, ``bool``, ``str``, ``dict``, ``list[int]``, ``list[float]``, ``list[str]``;
            ``texts``, a text or a list of them; ``ranges``, what ``trainables.ranges.parse_choice`` reads.
        default: The value if the field is not given.
        nullable: Whether ``null`` is a value.
        minimum: Smallest legal value of a number (or of each element of a list), inclusive.
        maximum: Largest legal value of a number (or of each element of a list), inclusive.
        choices: The legal values, if they are few.
        unit: Unit of the value (``px``, ``steps``, ``s``), empty if it has none.
        phase: ``data`` fields decide what is read, ``train`` fields need training again when they change,
            ``inference`` fields can be changed on a trained checkpoint.
        doc: One line of documentation.
        word: A text that is a value as well, e.g. ``auto``; empty if there is none.
    """

    name: str
    kind: str
    default: Any
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    unit: str = ""
    phase: Phase = "train"
    doc: str = ""
    word: str = ""

    def faults(self, value: Any) -> list[Fault]:
        """List the faults of ``value`` for this field; empty if it is legal."""
        if value is None:
            if self.nullable:
                return []
            return [Fault(self.name, "is null.", f"Expected {self.expected()}.")]
        if self.word and value == self.word:
            return []
        problem = self._problem(value)
        return [] if problem is None else [Fault(self.name, f"{problem}.", f"Expected {self.expected()}.")]

    def expected(self) -> str:
        """Describe what the field accepts, e.g. ``an int from 1 to 16, or null``."""
        names = {
            "int": "an int",
            "float": "a number",
            "bool": "true or false",
            "str": "a text",
            "dict": "a mapping",
            "texts": "a text or a list of texts",
            "ranges": "ints and ranges such as 0-99 or 0:100, alone or in a list",
        }
        words = names.get(self.kind, f"a {self.kind}")
        if self.choices is not None:
            words = "one of " + ", ".join(str(choice) for choice in self.choices)
        elif self.minimum is not None and self.maximum is not None:
            words += f" from {self.minimum:g} to {self.maximum:g}"
        elif self.minimum is not None:
            words += f" of at least {self.minimum:g}"
        elif self.maximum is not None:
            words += f" of at most {self.maximum:g}"
        if self.unit:
            words += f" ({self.unit})"
        return words + (f", or {self.word}" if self.word else "") + (", or null" if self.nullable else "")

    def _problem(self, value: Any) -> str | None:
        if self.kind == "ranges":
            return _ranges_problem(value)
        if self.kind == "texts":
            return _texts_problem(value)
        if self.kind.startswith("list["):
            if not isinstance(value, (list, tuple)):
                return f"{value!r} is not a list"
            element_kind = self.kind[5:-1]
            for position, element in enumerate(value):
                problem = self._scalar_problem(element, element_kind)
                if problem is not None:
                    return f"element {position} of {list(value)!r}: {problem}"
            return None
        return self._scalar_problem(value, self.kind)

    def _scalar_problem(self, value: Any, kind: str) -> str | None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = {
            "int": number and float(value).is_integer(),
            "float": number,
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
            "dict": isinstance(value, dict),
            "any": True,
        }[kind]
        if not fits:
            return f"{value!r} is not {'an' if kind == 'int' else 'a'} {kind}"
        if self.choices is not None and value not in self.choices:
            return f"{value!r} is not a known value"
        if number and self.minimum is not None and not value >= self.minimum:
            return f"{value!r} is too small"
        if number and self.maximum is not None and not value <= self.maximum:
            return f"{value!r} is too large"
        return None


def _ranges_problem(value: Any) -> str | None:
    try:
        parse_choice(value)
    except ValueError as error:
        return str(error)
    return None


def _texts_problem(value: Any) -> str | None:
    texts = value if isinstance(value, (list, tuple)) else [value]
    wrong = [text for text in texts if not isinstance(text, str)]
    return f"{wrong[0]!r} is not a text" if wrong else None


@dataclass(frozen=True)
class Metric:
    """A number that a trainable reports.

    Attributes:
        name: Name in reports and in MLflow, e.g. ``rollout/success_rate``.
        goal: The direction that is better, or None if there is none.
        every: ``log`` if every report has it, ``eval`` if only reports of an evaluation have it.
        needs: Dotted name of a field that must be set, and not 0, for the metric to appear; or None.
        doc: One line of documentation, with the unit.
    """

    name: str
    goal: Literal["minimize", "maximize"] | None
    every: Literal["log", "eval"]
    needs: str | None = None
    doc: str = ""


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


@dataclass(frozen=True)
class CacheEntry:
    """Files in the cache that are made or fetched again when they are missing.

    Attributes:
        dataset: The dataset that they belong to: its folder, its address, or its name on the hub.
        what: What they are, in words.
        paths: The files and folders.
    """

    dataset: str
    what: str
    paths: tuple[Path, ...]


@runtime_checkable
class CachesData(Protocol):
    """A trainable that can say what it has in the cache."""

    def cached(self, cache: Path) -> list[CacheEntry]:
        """List what is in a cache folder, which may be missing."""
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
class DatasetExaminer(Protocol):
    """A trainable that can describe a dataset, and what is wrong with it."""

    def dataset_config(self, root_or_repo_id: str) -> Mapping[str, Any]:
        """The configuration fields that name a dataset: a folder, or a dataset on the hub."""
        ...

    def examine(
        self,
        config: Mapping[str, Any],
        cache: Path,
        progress: Callable[[str], None] = silent,
        *,
        every_frame: bool = False,
    ) -> Examination:
        """Examine the dataset of a configuration as thoroughly as possible, pictures included.

        A dataset that cannot be opened is a finding, too. With ``every_frame`` all pictures are examined;
        without it a sample whose size does not grow with the dataset.

        Raises:
            ConfigError: If the configuration itself is wrong.
            TrainableError: If the configuration names episodes or features that the dataset does not have.
        """
        ...

    def portray(
        self,
        config: Mapping[str, Any],
        folder: Path,
        cache: Path,
        progress: Callable[[str], None] = silent,
    ) -> Mapping[str, Any]:
        """Describe the dataset of a configuration as JSON values; draws pictures of it into ``folder``.

        Raises:
            TrainableError: If the dataset cannot be opened.
        """
        ...


@runtime_checkable
class DatasetRepairer(Protocol):
    """A trainable that can write a repaired copy of a dataset."""

    def repair(
        self,
        root: Path,
        to: Path | None,
        progress: Callable[[str], None] = silent,
        *,
        trim_idle: bool = False,
        hard_links: bool = False,
    ) -> Repair:
        """Write a copy of the dataset in ``root`` in which everything is repaired that has a certain repair.

        The original is only read. The copy appears whole or not at all.

        Args:
            root: The dataset's folder.
            to: The folder to make; None: find out what would be changed, and write nothing.
            progress: Told what is being done.
            trim_idle: Cut the ends of episodes in which the robot stands still.
            hard_links: Link the videos instead of copying them.

        Raises:
            TrainableError: If ``root`` is not a dataset's folder, ``to`` cannot be made there, or the disk is
                full.
        """
        ...


@runtime_checkable
class ExportsCheckpoints(Protocol):
    """A trainable that can write its checkpoints in another system's format."""

    export_targets: Sequence[str]
    """Formats that can be written, the default first, e.g. ``lerobot==0.4.4``."""

    def export(
        self,
        checkpoint: Path,
        folder: Path,
        target: str,
        *,
        ema: bool = True,
        setting: Mapping[str, Any] | None = None,
        replace: bool = False,
        progress: Callable[[str], None] = silent,
    ) -> list[str]:
        """Write a checkpoint of this trainable into ``folder`` as ``target`` would have, and verify it.

        Args:
            checkpoint: Folder of the checkpoint.
            folder: The folder to create.
            target: One of ``export_targets``.
            ema: Write averaged weights if the checkpoint has them.
            setting: The inference setting to write: fields whose value differs from the training's.
            replace: Replace an earlier export in ``folder``; anything else there is still refused.
            progress: Receives a message for each step.

        Returns:
            Notes for the user: what was replaced, what was compared.

        Raises:
            TrainableError: If ``target`` cannot express it, with the reason; nothing is written then.
        """
        ...


@dataclass(frozen=True)
class EvaluationContext:
    """Where a trained policy is evaluated.

    Attributes:
        cache: Folder for what is shared on a machine: decoded frames, the built-in datasets.
        device: ``cpu`` or ``cuda:<index>``.
        threads: Threads that this process may use for computing; 0 leaves torch's setting alone.
        progress: Receives what a person would like to know while nothing is returned yet.
    """

    cache: Path
    device: str = "cpu"
    threads: int = 0
    progress: Callable[[str], None] = silent


class OpenPolicy(Protocol):
    """A trained policy that is ready to be evaluated, with any inference setting.

    An inference setting names fields whose phase is ``inference``; what it does not name stays as trained.

    Attributes:
        step: Optimiser steps of the policy; 0 if the checkpoint does not say.
        trained_setting: Every inference field with its value in the training.
        environment: The simulator, as ``rollout.env`` names it, or None.
        windows: Held-out moments that :meth:`action_errors` can be asked for; 0 if no dataset is named.
    """

    step: int
    trained_setting: Mapping[str, Any]
    environment: str | None

    @property
    def windows(self) -> int:
        """Held-out moments that :meth:`action_errors` can be asked for; 0 if no dataset is named."""
        ...

    def setting_faults(self, setting: Mapping[str, Any]) -> list[Fault]:
        """Say what is wrong with an inference setting for this policy; an empty list if nothing is."""
        ...

    def rollout(
        self,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
        *,
        film: Path | None = None,
        film_episodes: int = 4,
    ) -> list[EpisodeRecord]:
        """Roll out numbered episodes of a purpose, which start from seeds of that purpose alone.

        The same numbers give the same records, but for times, whichever other episodes are asked for.

        Args:
            setting: The inference setting.
            purpose: What the episodes are for.
            episodes: Their numbers, each once.
            film: The mp4 to write of some of them, failures first; None for no film.
            film_episodes: How many of them the film shows.

        Returns:
            One record per episode, by number.

        Raises:
            TrainableError: If there is no environment, or the policy or the simulator fails.
        """
        ...

    def metrics_of(self, records: Sequence[EpisodeRecord]) -> Mapping[str, float]:
        """Average episodes into the metrics that the trainable reports of them (``rollout/...``)."""
        ...

    def action_errors(self, setting: Mapping[str, Any], windows: Sequence[int]) -> list[float]:
        """The mean squared error of the next actions, at numbered held-out moments.

        As many actions are compared as in the training (``eval.window_steps``), whatever the setting.

        Args:
            setting: The inference setting.
            windows: Numbers below ``windows``.

        Returns:
            One error per moment, in the dataset's units squared.

        Raises:
            TrainableError: If no dataset is named, or it cannot be read.
        """
        ...

    def speed(self, setting: Mapping[str, Any]) -> Mapping[str, float]:
        """How fast the policy is with a setting, as metrics: the median latency of a chunk, and the rate.

        Returns:
            ``eval/chunk_latency_ms`` and ``eval/action_rate_hz``.
        """
        ...

    def latency_ms(self, setting: Mapping[str, Any], runs: int = 50, most_s: float = 10.0) -> list[float]:
        """Time the prediction of one action chunk for one observation, as on a robot.

        Args:
            setting: The inference setting.
            runs: Warm runs to time.
            most_s: Seconds after which no further run begins, once there are five.

        Returns:
            The time of each run, in ms.
        """
        ...


@runtime_checkable
class InspectablePolicy(Protocol):
    """What an open policy has if it can also be looked into (`sweeper eval`)."""

    def compare(self, setting: Mapping[str, Any]) -> Comparison:
        """Compare the predicted actions with demonstrations that the policy was not trained on, if there are.

        Args:
            setting: The inference setting.

        Raises:
            TrainableError: If no dataset is named, it cannot be read, or does not fit the policy.
        """
        ...

    def check_demonstrations(self) -> bool:
        """Open the dataset, so that what is wrong with it is found before anything is measured.

        Returns:
            Whether there is one.

        Raises:
            TrainableError: As :meth:`compare`.
        """
        ...

    def latency(self, setting: Mapping[str, Any], runs: int = 50, most_s: float = 10.0) -> Latency:
        """Time predictions as :meth:`OpenPolicy.latency_ms` does, and say what computed them."""
        ...

    def draw_denoising(
        self, setting: Mapping[str, Any], picture: Path, film: Path | None = None
    ) -> DenoisingPicture | None:
        """Draw how noise becomes action chunks for one observation.

        The observation is a demonstration's if there is a dataset, or else the first of an episode in the
        environment.

        Args:
            setting: The inference setting.
            picture: The PNG to write.
            film: The mp4 to write; None for no film.

        Returns:
            What was drawn; None if there is neither a dataset nor an environment.

        Raises:
            TrainableError: If the observation cannot be had.
        """
        ...

    def repeat(
        self, setting: Mapping[str, Any], purpose: Purpose, episodes: Sequence[int], run: int
    ) -> list[EpisodeRecord]:
        """Roll out episodes again from the same starts with other noise.

        Args:
            setting: The inference setting.
            purpose: What the episodes are for.
            episodes: Their numbers, each once.
            run: Number of the repetition, from 1 on: each has its own noise.

        Returns:
            One record per episode, by number.

        Raises:
            TrainableError: If there is no environment, or the policy or the simulator fails.
        """
        ...


@runtime_checkable
class BenchmarksPolicies(Protocol):
    """What an open policy has if there are several ways to compute its chunks (`sweeper bench`).

    Attributes:
        backends: The ways, the reference first.
        precisions: The precisions of the network, the default first.
    """

    backends: Sequence[str]
    precisions: Sequence[str]

    def bench(
        self,
        settings: Sequence[Mapping[str, Any]],
        backends: Sequence[str],
        precision: str,
        runs: int,
        lerobot: Path | None = None,
    ) -> list[BenchRow]:
        """Time every backend with every setting, in turns, so that a busy machine slows down all alike.

        Args:
            settings: Inference settings.
            backends: Some of ``backends``.
            precision: One of ``precisions``.
            runs: Warm runs of each.
            lerobot: A Python with LeRobot, which is timed on an export of the policy as well.

        Returns:
            The rows, setting by setting. A backend that cannot be used here is replaced, with the reason.

        Raises:
            TrainableError: If a setting is not possible, or LeRobot cannot take the policy.
        """
        ...

    def rollout_with(
        self,
        backend: str,
        precision: str,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
    ) -> list[EpisodeRecord]:
        """Roll out episodes as `OpenPolicy.rollout` does, computed by a backend.

        Raises:
            TrainableError: If there is no environment, or the policy or the simulator fails.
        """
        ...


@runtime_checkable
class EvaluatesPolicies(Protocol):
    """A trainable whose trained policies can be evaluated again, with other inference settings too."""

    def open_policy(
        self, checkpoint: Path, config: Mapping[str, Any], context: EvaluationContext
    ) -> OpenPolicy:
        """Load the policy of a checkpoint.

        Args:
            checkpoint: Folder of the checkpoint, or whatever else the trainable reads as one.
            config: Values by dotted name that are to hold in place of those of the training: another dataset,
                another environment.
            context: Where it is evaluated.

        Raises:
            ConfigError: If the checkpoint cannot be read, or the policy does not fit the environment.
        """
        ...

    def trained_for(
        self, config: Mapping[str, Any], searched: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, Any]:
        """Return the configuration that is trained if values of inference fields are examined afterwards.

        Args:
            config: Values by dotted name.
            searched: The values of each inference field that will be examined.
        """
        ...


@runtime_checkable
class BundlesPolicies(Protocol):
    """A trainable whose checkpoints can be packed into a bundle (`trainables.deployment.bundle`)."""

    def policy_files(self, checkpoint: Path) -> Mapping[str, Path]:
        """The files of a checkpoint that its policy needs, without what only a continued training needs.

        Args:
            checkpoint: Folder of the checkpoint, or whatever else the trainable reads as one.

        Returns:
            The files by their names in the folder from which the trainable will read the policy.

        Raises:
            TrainableError: If the checkpoint cannot be found.
        """
        ...


FormatParts = Literal["chunk", "steps"]
"""What is exported: the whole prediction of a chunk, or the encoder and one denoising step."""
FormatPrecision = Literal["fp32", "fp16", "int8"]
"""Numbers that the networks of an export compute with."""


@dataclass(frozen=True)
class FormatOptions:
    """What is to be exported in a format of another runtime, and how it is checked.

    Attributes:
        format: One of `ExportsFormats.formats`.
        parts: The whole chunk, or encoder and step.
        precisions: The variants to write, each once; never empty.
        episodes: Episodes of the policy and of each variant that is not fp32, from the same starts and with
            the same noise; None if not stated.
        ema: Use averaged weights if the checkpoint has them.
        setting: The inference setting: fields whose value differs from the training's.
        config: Values that replace those of the training: another dataset or environment.
        replace: Replace an earlier export in the folder.
    """

    format: str
    parts: FormatParts = "chunk"
    precisions: tuple[FormatPrecision, ...] = ("fp32",)
    episodes: int | None = None
    ema: bool = True
    setting: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    replace: bool = False


@runtime_checkable
class ExportsFormats(Protocol):
    """A trainable that can export its policies to other runtimes, such as ONNX Runtime."""

    formats: Sequence[str]
    """Formats that can be written."""

    def export_format(
        self, checkpoint: Path, folder: Path, wanted: FormatOptions, context: EvaluationContext
    ) -> Mapping[str, Any]:
        """Write a policy into a folder, with a report and an example, and compare it with the policy.

        Args:
            checkpoint: What the trainable reads as a checkpoint.
            folder: The folder to create. It appears only when everything in it was checked.
            wanted: What to write.
            context: Folders, threads and progress; the device is the CPU.

        Returns:
            The content of ``report.json``: ``format``, ``notes``, and for every variant its ``files``,
            ``parity``, ``latency``, and what it costs (``action_error``, ``episodes``), None if that was not
            measured.

        Raises:
            TrainableError: If the policy cannot be exported, or a variant differs too much. Nothing is left.
        """
        ...


@dataclass(frozen=True)
class ServeOptions:
    """Where a policy is served, and for whom.

    Attributes:
        host: Address to listen at.
        port: Port; 0 for any that is free.
        token: What clients must send; None: a random one, or none if only this machine can connect.
        name: What the policy is called in its description.
        max_sessions: Most clients at once.
        max_message_b: The largest message in bytes; None for what the policy's observations need.
        idle_s: Seconds without a message after which a session ends.
        batch: Rows of an inference batch; None for a number that is found by measuring.
        batch_wait_ms: How long the first row of a batch waits for others.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    name: str = "policy"
    max_sessions: int = 64
    max_message_b: int | None = None
    idle_s: float = 300.0
    batch: int | None = None
    batch_wait_ms: float = 2.0


class RunningServer(AbstractContextManager["RunningServer"], Protocol):
    """A server that clients can connect to. Leaving its context closes it.

    Attributes:
        url: What clients connect to.
        token: What they must send; None if they need none.
        description: What they receive first, as JSON values: ``inputs``, ``action``, ``n_obs_steps``,
            ``n_action_steps``, ``limits``, ``batch`` (``rows``, ``chunk_ms``, and ``alike``: whether a
            client's actions are the same to the last bit, whichever other clients there are).
    """

    url: str
    token: str | None
    description: Mapping[str, Any]

    @property
    def counts(self) -> Mapping[str, int]:
        """How many ``sessions``, ``answers`` and ``errors`` there have been."""
        ...

    def wait(self) -> None:
        """Wait until the server ends by itself, which is a failure.

        Raises:
            TrainableError: If it has failed.
        """
        ...

    def close(self) -> None:
        """Answer what is being answered, close all connections, and end."""
        ...


@runtime_checkable
class ServablePolicy(Protocol):
    """What an open policy has if it can also be served to robots (`sweeper serve`)."""

    def serve(
        self, setting: Mapping[str, Any], options: ServeOptions, report: Callable[[str], object] = silent
    ) -> RunningServer:
        """Serve the policy in another thread, until the returned server is closed.

        Args:
            setting: The inference setting.
            options: Where and for whom.
            report: Receives a sentence whenever a session begins, ends or is refused; from another thread.

        Raises:
            TrainableError: If the setting is not possible, a package is missing, or the port cannot be used.
        """
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


@runtime_checkable
class GivesPolicies(Protocol):
    """What an open policy has if it can be used in Python, e.g. in a control loop."""

    def policy(self, setting: Mapping[str, Any]) -> Any:
        """Return the policy with an inference setting, ready for `trainables.deployment.Controller`.

        Args:
            setting: The inference setting; what it does not name stays as trained.

        Raises:
            TrainableError: If the setting is not possible.
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
