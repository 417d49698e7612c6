"""A policy in formats of other runtimes, such as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from sweeper.errors import UserError
from sweeper.machines.machine import usable_cache
from sweeper.records.checkpoints import Source
from trainables import registry
from trainables.interface import (
    DatasetExaminer,
    EvaluationContext,
    ExportsFormats,
    FormatOptions,
    FormatPrecision,
    silent,
)

__all__ = ["LEROBOT", "FormatRequest", "check_formats", "export_formats", "precisions_named"]

LEROBOT = "lerobot"


@dataclass(frozen=True)
class FormatRequest:
    """What `sweeper export` is asked to write.

    Attributes:
        formats: ``lerobot``, or what the trainable knows; each once.
        to: The folder to create; with several formats each has a folder of its name in it. None for none.
        dataset: The dataset to compare and calibrate with, in place of the training's.
        options: What is common to the other formats.
    """

    formats: tuple[str, ...]
    to: Path | None
    dataset: str | None
    options: FormatOptions

    @property
    def others(self) -> tuple[str, ...]:
        """The formats that the trainable writes itself: all but LeRobot's."""
        return tuple(name for name in self.formats if name != LEROBOT)

    def folder(self, name: str) -> Path | None:
        """The folder of a format; None if no folder is named."""
        return self.to if self.to is None or len(self.formats) == 1 else self.to / name


def precisions_named(typed: Sequence[str]) -> tuple[FormatPrecision, ...]:
    """The precisions that were typed, each once.

    Raises:
        UserError: If one does not exist.
    """
    allowed: tuple[FormatPrecision, ...] = get_args(FormatPrecision)
    unknown = [name for name in typed if name not in allowed]
    if unknown:
        raise UserError(f"--precision {unknown[0]}: unknown. Allowed: {', '.join(allowed)}.")
    return tuple(name for name in allowed if name in typed)


def check_formats(
    formats: Sequence[str], to: Path | None, options: FormatOptions, dataset: str | None
) -> None:
    """Check what does not depend on the policy.

    Raises:
        UserError: If there are options that only other formats than LeRobot's have, or no folder for them.
    """
    if set(formats) != {LEROBOT}:
        if to is None:
            raise UserError("--format: name the folder to create: --to DIR.")
        return
    default = FormatOptions(options.format)
    given = {
        "--parts": options.parts != default.parts,
        "--precision": options.precisions != default.precisions,
        "--episodes": options.episodes is not None,
        "--dataset": dataset is not None,
    }
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise UserError(f"{', '.join(wrong)}: only for other formats than lerobot. Add --format onnx.")


def export_formats(
    source: Source, request: FormatRequest, progress: Callable[[str], None] = silent
) -> list[dict[str, Any]]:
    """Write a policy in every format that its trainable writes itself.

    Returns:
        For each ``format``, ``folder``, and the report of its trainable.

    Raises:
        UserError: If the trainable cannot write a format.
        TrainableError: If the policy cannot be exported.
    """
    trainable = registry.load(source.trainable)
    known = [LEROBOT, *(trainable.formats if isinstance(trainable, ExportsFormats) else ())]
    unknown = [name for name in request.formats if name not in known]
    if unknown:
        raise UserError(
            f"--format {unknown[0]}: {source.trainable} cannot write it. Allowed: {', '.join(known)}."
        )
    config: Mapping[str, Any] = {}
    if request.dataset is not None:
        if not isinstance(trainable, DatasetExaminer):
            raise UserError(f"--dataset: the trainable {source.trainable} has no datasets to name.")
        config = trainable.dataset_config(request.dataset)
    made: list[dict[str, Any]] = []
    for name in request.others:
        folder, options = request.folder(name), request.options
        assert folder is not None
        folder.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(trainable, ExportsFormats)
        # Precisions are of ONNX; alone, another format refuses them.
        is_asked = name == "onnx" or "onnx" not in request.formats
        wanted = FormatOptions(
            name,
            options.parts,
            options.precisions if is_asked else ("fp32",),
            options.episodes if is_asked else None,
            options.ema,
            source.setting,
            config,
            options.replace,
        )
        context = EvaluationContext(usable_cache(), progress=progress)
        report = trainable.export_format(source.checkpoint.absolute(), folder, wanted, context)
        made.append({"format": name, "folder": str(folder), "report": dict(report)})
    return made
