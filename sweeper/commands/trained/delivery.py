"""Bring what was found after the search to MLflow and the trackers beside it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from sweeper.errors import UserError
from sweeper.tracking.sync import sync_sweep

__all__ = ["deliver"]


def deliver(folder: Path, console: Console) -> None:
    """Upload what was found to each tracker; what is missing is reported, and can be uploaded later."""
    try:
        sent = sync_sweep(folder, None, str)
    except UserError as error:
        console.print(f"! {error}", style="yellow", soft_wrap=True, markup=False)
        return
    missing = "\n".join(sent.others) if sent.complete else str(sent)
    if missing:
        console.print(missing, style="yellow", soft_wrap=True, markup=False)
