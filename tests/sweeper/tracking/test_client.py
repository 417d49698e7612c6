"""What is said about an error of MLflow's store."""

from __future__ import annotations

from sqlalchemy.exc import OperationalError

from sweeper.tracking.client import one_line


def test_the_reason_is_given_and_not_the_moment_of_the_write():
    full = OperationalError("INSERT", {}, OSError("database or disk is full"))
    said = "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block)"
    flushed = RuntimeError(f"{said}\n(sqlite3.OperationalError) database or disk is full")
    assert one_line(flushed) == "(sqlite3.OperationalError) database or disk is full"
    assert "database or disk is full" in one_line(full)


def test_an_error_without_a_text_has_the_name_of_its_type():
    assert one_line(OSError()) == "OSError"
    assert one_line(RuntimeError("(raised as a result of Query-invoked autoflush; …)")).startswith("(raised")
