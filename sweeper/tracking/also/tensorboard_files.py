"""TensorBoard: a folder of event files for each trial, below ``tensorboard/`` in the sweep's folder."""

from __future__ import annotations

import os
import time
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
    it is cut off, so no event is in a file twice. So `flush` must write everything: tensorboardX's
    SummaryWriter writes in a thread, which its own flush does not wait for.

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
        from tensorboardX.summary import scalar

        for name, value in metrics.items():
            self._write(run, scalar(name, value), at.step, at.time)
        for name, path in media.items():
            if path.suffix.lower() in PICTURES:
                self._write(run, _picture(name, path), at.step, at.time)

    def end(self, run: Run, at: Moment, summary: Mapping[str, Any]) -> None:
        """Record the last values, for the page of hyperparameters."""
        from tensorboardX.summary import hparams, scalar, text

        numbers = finite_numbers(summary)
        for name, value in numbers.items():
            self._write(run, scalar(name, value), 0, at.time)
        values = {name: _plain(value) for name, value in run.config.items()}
        for part in hparams(values, dict.fromkeys(numbers, 0.0)):
            self._write(run, part, 0, at.time)
        words = {name: summary.get(name) for name in ("status", "reason", "message")}
        lines = "\n\n".join(f"{name}: {word}" for name, word in words.items() if word)
        self._write(run, text("status", lines), 0, at.time)

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

    def _write(self, run: Run, summary: Any, step: int, time_s: float) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(summary=summary, step=step, wall_time=time_s)
        self._writer(run).write_event(event)

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self._folder))

    def _writer(self, run: Run) -> Any:
        if run.key not in self._writers:
            from tensorboardX.event_file_writer import EventsWriter

            place = self._folder / (run.name.rpartition(" trial ")[2] if run.kind == "trial" else "sweep")
            place.mkdir(parents=True, exist_ok=True)
            # Its name has only the second of its start: another process must not overwrite it.
            self._writers[run.key] = EventsWriter(str(place / "events"), f".{os.getpid()}")
        if run.key not in self._described:
            from tensorboardX.summary import text

            self._described.add(run.key)
            lines = [f"{run.notes}\n", f"Tags: {', '.join(run.tags)}\n", "| field | value |", "|---|---|"]
            lines += [f"| {name} | {describe_value(value)} |" for name, value in run.config.items()]
            self._write(run, text("about", "\n".join(lines)), 0, time.time())
        return self._writers[run.key]


def _picture(name: str, path: Path) -> Any:
    from PIL import Image
    from tensorboardX.proto.summary_pb2 import Summary

    with Image.open(path) as picture:
        width, height = picture.size
    image = Summary.Image(height=height, width=width, encoded_image_string=path.read_bytes())
    return Summary(value=[Summary.Value(tag=name, image=image)])


def _plain(value: Any) -> bool | str | float | int:
    return value if isinstance(value, (bool, str, float, int)) else describe_value(value)
