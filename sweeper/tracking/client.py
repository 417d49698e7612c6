"""How MLflow's client is used: what it may be asked again, and what it takes as a name."""

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
"""Answers of a server that will be the same the next time."""

T = TypeVar("T")


class OutageError(Exception):
    """MLflow does not answer, or not now."""


def attempt(request: Callable[[], T]) -> T:
    """Send a request.

    Raises:
        OutageError: If it may well succeed another time.
        MlflowException: If it will never succeed.
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
    """What is wrong, short enough for a status, and without passwords."""
    lines = masked(str(error)).strip().splitlines() or [type(error).__name__]
    return shortened(lines[0], 300)


def legal_key(name: str) -> str:
    """A name as MLflow allows it: one that it does not like would cost the whole batch."""
    name = re.sub(r"[^\w\-./: ]", "_", name)[:KEY_LENGTH]
    return name if posixpath.normpath(name) == name and name[0] not in "./" else re.sub(r"\W", "_", name)


def quieten() -> None:
    """Settle how MLflow's client behaves in this process, before it is imported."""
    # Our thread tries again itself; the client would hold one request for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(HTTP_TIMEOUT_S))
    # A sweep tells nobody about itself unless it was asked to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints a page for every statement that fails, onto a terminal that shows a table.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
