"""The MLflow database in a sweep's own folder, which may have been moved, renamed or copied."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from sweeper.layout import DATABASE

__all__ = ["ARTIFACTS", "artifacts_uri", "own_database", "own_database_uri", "update_artifact_locations"]

ARTIFACTS = "artifacts"
"""Name of the folder that contains the files of runs."""


def own_database(folder: Path) -> Path:
    """The database in the folder of a sweep that has no MLflow server."""
    return (folder / DATABASE).absolute()


def own_database_uri(folder: Path) -> str:
    """The address of `own_database` for MLflow."""
    return f"sqlite:///{own_database(folder)}"


def artifacts_uri(folder: Path) -> str:
    """The address of the files of runs in a folder, as MLflow records it."""
    return (folder / ARTIFACTS).absolute().as_uri()


def update_artifact_locations(database: Path, folder: Path) -> bool:
    """Point the runs in a sweep's own database to the files in the sweep's present folder.

    MLflow records the absolute address of each run's files. After a move the files would not be found, and
    new ones would be written to the old place.

    Args:
        database: The database; ignored if it is missing.
        folder: The folder of the sweep, with its files.

    Returns:
        Whether anything was changed.

    Raises:
        sqlite3.Error: If the database cannot be read or written.
    """
    if not database.is_file():
        return False
    now = artifacts_uri(folder)
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
            return False  # MLflow was interrupted before it created its tables
        moved = [
            (experiment, before)
            for experiment, before in connection.execute(
                "SELECT experiment_id, artifact_location FROM experiments"
            )
            if before and before.endswith(f"/{ARTIFACTS}") and not _is_same_place(before, now)
        ]
        for experiment, before in moved:
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (now, experiment)
            )
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (now, len(before) + 1, experiment, len(before) + 1, f"{before}/"),
            )
    return bool(moved)


def _path_of(uri: str) -> Path:
    return Path(unquote(urlsplit(uri).path))


def _is_same_place(before: str, now: str) -> bool:
    """Whether two addresses are one place, perhaps by way of a symbolic link."""
    if before == now:
        return True
    if urlsplit(before).scheme != "file":
        return False
    with contextlib.suppress(OSError):
        return _path_of(before).samefile(_path_of(now))
    return False
