"""A policy in formats of other runtimes, such as ONNX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.machines.machine import usable_cache
from sweeper.records.checkpoints import Source, export
from trainables import registry
from trainables.interface import (
    DatasetExaminer,
    EvaluationContext,
    ExportsFormats,
    FormatOptions,
    silent,
)

__all__ = ["LEROBOT", "FormatRequest", "export_formats", "is_plain"]

LEROBOT = "lerobot"


@dataclass(frozen=True)
class FormatRequest:
    """What `sweeper export` is asked to write.

    Attributes:
        formats: ``lerobot``, or what the trainable knows; each once.
        to: The folder to create; with several formats each has a folder of its name in it.
        target: The version of LeRobot.
        dataset: The dataset to compare and calibrate with, in place of the training's.
        options: What is common to the other formats.
    """

    formats: tuple[str, ...]
    to: Path
    target: str | None
    dataset: str | None
    options: FormatOptions

    def folder(self, name: str) -> Path:
        """The folder of a format."""
        return self.to if len(self.formats) == 1 else self.to / name


def is_plain(formats: Sequence[str], options: FormatOptions, dataset: str | None) -> bool:
    """Whether only LeRobot's format is asked for.

    Raises:
        UserError: If there are options that only other formats have.
    """
    if set(formats) != {LEROBOT}:
        return False
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
    return True


def export_formats(
    source: Source, request: FormatRequest, progress: Callable[[str], None] = silent
) -> list[dict[str, Any]]:
    """Write a policy in every format that is asked for.

    Returns:
        For each ``format``, ``folder``, and the report of its trainable; for LeRobot its ``notes``.

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
    for name in request.formats:
        folder, options = request.folder(name), request.options
        folder.parent.mkdir(parents=True, exist_ok=True)
        if name == LEROBOT:
            written = export(
                source, folder, request.target, ema=options.ema, replace=options.replace, progress=progress
            )
            made.append(
                {"format": name, "folder": str(folder), "target": written.target, "notes": written.notes}
            )
            continue
        assert isinstance(trainable, ExportsFormats)
        wanted = FormatOptions(
            name,
            options.parts,
            options.precisions if name == "onnx" else ("fp32",),
            options.episodes if name == "onnx" else None,
            options.ema,
            source.setting,
            config,
            options.replace,
        )
        context = EvaluationContext(usable_cache(), progress=progress)
        report = trainable.export_format(source.checkpoint.absolute(), folder, wanted, context)
        made.append({"format": name, "folder": str(folder), "report": dict(report)})
    return made
