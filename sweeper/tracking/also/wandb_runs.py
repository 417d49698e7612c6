"""Weights & Biases: a run for each trial in the group of the sweep; without a login, offline runs."""

from __future__ import annotations

import contextlib
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweeper.tracking.also.runs import Moment, Run, as_media, finish_runs

__all__ = ["WandbRuns"]

STEP = "trial/step"


class WandbRuns:
    """Logs to Weights & Biases.

    The number of an event in the journal is W&B's step, which it accepts once; charts use ``trial/step``.

    Args:
        folder: The sweep's folder; files are in ``wandb/`` there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[str, Any] = {}

    def log(self, run: Run, at: Moment, metrics: Mapping[str, float], media: Mapping[str, Path]) -> None:
        """Record metrics, pictures and films."""
        import wandb

        self._open(run).log({**metrics, **as_media(wandb, media), STEP: at.step}, step=at.number)

    def end(self, run: Run, at: Moment, summary: Mapping[str, Any]) -> None:
        """Record the summary and finish the run. A later event opens it again."""
        opened = self._open(run)
        opened.log({STEP: at.step}, step=at.number)
        opened.summary.update(dict(summary))
        opened.finish(exit_code=1 if summary["status"] == "failed" else 0)
        del self._runs[run.key]

    def flush(self) -> dict[str, Any]:
        """W&B's own process has everything."""
        return {}

    def close(self) -> None:
        """Finish the runs that are open."""
        finish_runs(self._runs)

    def _open(self, run: Run) -> Any:
        if run.key not in self._runs:
            import wandb

            opened = wandb.init(
                project=run.project,
                id=run.key,
                name=run.name,
                group=run.group,
                job_type=run.kind,
                tags=[tag[:64] for tag in run.tags],
                notes=run.notes,
                config=dict(run.config),
                dir=str(self._folder),
                mode=_mode(),
                resume="allow",
                reinit="create_new",
                allow_val_change=True,
                settings=wandb.Settings(console="off", silent=True, x_disable_stats=True),
            )
            opened.define_metric("*", step_metric=STEP)
            self._runs[run.key] = opened
        return self._runs[run.key]


def _mode() -> Any:
    """The mode: WANDB_MODE; otherwise online with a login, offline without one, which would ask for it."""
    chosen = os.environ.get("WANDB_MODE")
    if chosen:
        return chosen
    return "online" if os.environ.get("WANDB_API_KEY") or _has_login() else "offline"


def _has_login() -> bool:
    """Whether `wandb login` was done for the server; what it stored is not read."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    with contextlib.suppress(OSError, netrc.NetrcParseError, RuntimeError):
        return host in netrc.netrc().hosts
    return False
