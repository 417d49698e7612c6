"""Trackio: a run for each trial in its local database (or where its variables say)."""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.tracking.also.runs import Moment, Run, as_media, finish_runs, finite_numbers

__all__ = ["TrackioRuns"]

NUMBER = "sweep/event"
"""The number of an event in the journal. By it, an event that a run has already is left out."""


class TrackioRuns:
    """Logs to Trackio, which has its own place for all projects (``TRACKIO_DIR``)."""

    def __init__(self) -> None:
        self._runs: dict[str, Any] = {}
        self._has: dict[str, int] = {}

    def log(self, run: Run, at: Moment, metrics: Mapping[str, float], media: Mapping[str, Path]) -> None:
        """Record metrics, pictures and films."""
        import trackio

        opened = self._open(run)
        if at.number > self._has[run.key]:
            values = {**finite_numbers(metrics), **as_media(trackio, media)}
            opened.log({**values, NUMBER: at.number}, step=at.step)

    def end(self, run: Run, at: Moment, summary: Mapping[str, Any]) -> None:
        """Record the last values, and finish the run. A later event opens it again."""
        opened = self._open(run)
        if at.number > self._has[run.key]:
            words = {name: str(summary[name]) for name in ("status", "reason") if summary.get(name)}
            opened.log({**finite_numbers(summary), **words, NUMBER: at.number}, step=at.step)
        opened.finish()
        del self._runs[run.key]

    def flush(self) -> dict[str, Any]:
        """Store everything: a run has its own thread that writes, which ends with the run."""
        finish_runs(self._runs)
        return {}

    def close(self) -> None:
        """Finish the runs that are open."""
        finish_runs(self._runs)

    def _open(self, run: Run) -> Any:
        if run.key not in self._runs:
            import trackio

            name = f"{run.name} ({run.key.partition('-')[0]})"
            config = {**run.config, "kind": run.kind, "tags": list(run.tags), "notes": run.notes}
            # Trackio finishes the run of a context before it opens another one there.
            self._runs[run.key] = contextvars.Context().run(
                trackio.init,
                project=run.project,
                name=name,
                group=run.group,
                config=config,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            self._has[run.key] = self._last(run.project, name)
        return self._runs[run.key]

    def _last(self, project: str, name: str) -> int:
        """The last event that the local database has of a run."""
        from trackio.sqlite_storage import SQLiteStorage

        logs = SQLiteStorage.get_logs(project, name)
        return max((int(log[NUMBER]) for log in logs if NUMBER in log), default=0)
