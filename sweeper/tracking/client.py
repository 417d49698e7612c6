"""MLflow's client: which requests are retried, and which names are legal."""

from __future__ import annotations

import logging
import os
import posixpath
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sweeper.masking import masked
from sweeper.text import shortened

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["OutageError", "attempt", "legal_key", "log_file", "log_text", "one_line", "quieten"]

KEY_LENGTH = 250
HTTP_TIMEOUT_S = 20

_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
"""Error codes for which a retry cannot succeed."""

T = TypeVar("T")


class OutageError(Exception):
    """MLflow does not answer, or fails temporarily."""


def attempt(request: Callable[[], T]) -> T:
    """Send a request.

    Raises:
        OutageError: If a retry may succeed.
        MlflowException: If a retry cannot succeed.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return request()
    except MlflowException as error:
        if error.error_code in _PERMANENT:
            raise
        raise OutageError(one_line(error)) from error
    except (OSError, SQLAlchemyError) as error:
        raise OutageError(one_line(error)) from error


def log_file(client: MlflowClient, run_id: str, path: Path, folder: str = "") -> None:
    """Upload a file to a run, and keep nothing of it.

    The client's own ``log_artifact`` keeps a store with its queues and locks for each of the last 1,024 runs,
    several kilobytes a trial, although a trial uploads a few files in all.

    Args:
        client: MLflow's client.
        run_id: The run.
        path: The file.
        folder: The folder inside the run's artifacts; empty for none.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    location = client.get_run(run_id).info.artifact_uri
    store = get_artifact_repository(location, tracking_uri=client.tracking_uri)
    store.log_artifact(str(path), folder or None)


def log_text(client: MlflowClient, run_id: str, text: str, name: str) -> None:
    """Upload a text to a run as a file of this name, and keep nothing of it."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / Path(name).name
        path.write_text(text, encoding="utf-8")
        log_file(client, run_id, path, posixpath.dirname(name))


def one_line(error: BaseException) -> str:
    """The message of an error in one short line, without passwords."""
    lines = masked(str(error)).strip().splitlines()
    # SQLAlchemy's first line may only say when it wrote, which is not the reason.
    reasons = [
        line for line in lines if not line.startswith("(raised as a result of Query-invoked autoflush")
    ]
    return shortened((reasons or lines or [type(error).__name__])[0], 300)


def legal_key(name: str) -> str:
    """A name that MLflow allows: it rejects the whole batch for one illegal name."""
    name = re.sub(r"[^\w\-./: ]", "_", name)[:KEY_LENGTH]
    return name if posixpath.normpath(name) == name and name[0] not in "./" else re.sub(r"\W", "_", name)


def quieten() -> None:
    """Configure MLflow's client in this process, before it is imported."""
    # The tracker's thread retries itself; the client would block for minutes on one request.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(HTTP_TIMEOUT_S))
    # A sweep sends no telemetry unless the user enables it.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints a page for every statement that fails, over the live table on the terminal.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
