"""MLflow's client: which requests are retried, and which names are legal."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections.abc import Callable
from typing import TypeVar

from sweeper.masking import masked
from sweeper.text import shortened

__all__ = ["OutageError", "attempt", "legal_key", "one_line", "quieten"]

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
