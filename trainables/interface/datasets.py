"""What a trainable may know about datasets: their examination, their repair, and caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from trainables.interface.training import silent

__all__ = [
    "CacheEntry",
    "CachesData",
    "Change",
    "DatasetExaminer",
    "DatasetRepairer",
    "Examination",
    "Finding",
    "Repair",
    "Severity",
]

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
