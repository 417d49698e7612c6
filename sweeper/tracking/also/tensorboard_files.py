"""TensorBoard: a folder of event files for each trial, below ``tensorboard/`` in the sweep's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.text import describe_value
from sweeper.tracking.also.runs import PICTURES, Moment, Run, finite_numbers

__all__ = ["TensorBoardFiles"]

FOLDER = "tensorboard"


class TensorBoardFiles:
    """Writes event files.

    The length of each file is stored with the position in the journal. What a killed process wrote beyond
    it is cut off, so no event is in a file twice.

    Args:
        folder: The sweep's folder.
        state: What `flush` returned last: the length of each file.
    """

    def __init__(self, folder: Path, state: Mapping[str, Any]) -> None:
        self._folder = folder / FOLDER
        self._writers: dict[str, Any] = {}
        self._described: set[str] = set(state.get("described", ()))
        for path in self._folder.glob("*/events.*"):
            length = state.get("lengths", {}).get(self._name(path), 0)
            if not length:
                path.unlink()
            elif path.stat().st_size > length:
                with path.open("r+b") as file:
                    file.truncate(length)

    def log(self, run: Run, at: Moment, metrics: Mapping[str, float], media: Mapping[str, Path]) -> None:
        """Record metrics as scalars, and pictures; TensorBoard shows no films."""
        writer = self._writer(run)
        for name, value in metrics.items():
            writer.add_scalar(name, value, at.step, walltime=at.time)
        for name, path in media.items():
            if path.suffix.lower() in PICTURES:
                self._add_picture(run, at, name, path)

    def end(self, run: Run, at: Moment, summary: Mapping[str, Any]) -> None:
        """Record the last values, for the page of hyperparameters."""
        from tensorboardX.summary import hparams

        writer = self._writer(run)
        numbers = finite_numbers(summary)
        for name, value in numbers.items():
            writer.add_scalar(name, value, 0, walltime=at.time)
        values = {name: _plain(value) for name, value in run.config.items()}
        for part in hparams(values, dict.fromkeys(numbers, 0.0)):
            writer.file_writer.add_summary(part)
        words = {name: summary.get(name) for name in ("status", "reason", "message")}
        writer.add_text("status", "\n\n".join(f"{name}: {word}" for name, word in words.items() if word), 0)

    def flush(self) -> dict[str, Any]:
        """Write everything to the files; returns their lengths."""
        for writer in self._writers.values():
            writer.flush()
        lengths = {self._name(path): path.stat().st_size for path in self._folder.glob("*/events.*")}
        return {"lengths": lengths, "described": sorted(self._described)}

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _add_picture(self, run: Run, at: Moment, name: str, path: Path) -> None:
        from PIL import Image
        from tensorboardX.proto.summary_pb2 import Summary

        with Image.open(path) as picture:
            width, height = picture.size
        image = Summary.Image(height=height, width=width, encoded_image_string=path.read_bytes())
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        self._writer(run).file_writer.add_summary(summary, at.step, walltime=at.time)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _writer(self, run: Run) -> Any:
        if run.key not in self._writers:
            from tensorboardX import SummaryWriter

            place = self._folder / (run.name.rpartition(" trial ")[2] if run.kind == "trial" else "sweep")
            self._writers[run.key] = SummaryWriter(str(place), write_to_disk=True)
        writer = self._writers[run.key]
        if run.key not in self._described:
            self._described.add(run.key)
            lines = [f"{run.notes}\n", f"Tags: {', '.join(run.tags)}\n", "| field | value |", "|---|---|"]
            lines += [f"| {name} | {describe_value(value)} |" for name, value in run.config.items()]
            writer.add_text("about", "\n".join(lines), 0)
        return writer


def _plain(value: Any) -> bool | str | float | int:
    return value if isinstance(value, (bool, str, float, int)) else describe_value(value)
