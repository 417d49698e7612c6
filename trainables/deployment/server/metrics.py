"""Counters of a server, in Prometheus' format."""

from __future__ import annotations

from trainables.deployment.server.protocol import require

__all__ = ["Metrics"]

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1, 2, 5)
_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)


class Metrics:
    """Of one server: a registry of its own, so that a process may run several.

    Attributes:
        content_type: Of the page.
    """

    def __init__(self) -> None:
        prometheus = require("prometheus_client")
        self._prometheus = prometheus
        self._registry = prometheus.CollectorRegistry()
        self.content_type: str = prometheus.CONTENT_TYPE_LATEST
        common = {"namespace": "sweeper_serve", "registry": self._registry}
        self._requests = prometheus.Counter(
            "requests", "Messages that were answered, by outcome.", ["outcome"], **common
        )
        self._sessions = prometheus.Gauge("sessions", "Open sessions.", **common)
        self._begun = prometheus.Counter("sessions_begun", "Sessions that were begun.", **common)
        self._refused = prometheus.Counter(
            "refused", "Connections that were refused, by reason.", ["reason"], **common
        )
        self._answer_s = prometheus.Histogram(
            "answer_seconds", "From a message to its actions.", buckets=_SECONDS, **common
        )
        self._wait_s = prometheus.Histogram(
            "wait_seconds", "From a message to the start of its batch.", buckets=_SECONDS, **common
        )
        self._predict_s = prometheus.Histogram(
            "predict_seconds", "Prediction of a batch.", buckets=_SECONDS, **common
        )
        self._rows = prometheus.Histogram(
            "batch_rows", "Rows of a batch that clients asked for.", buckets=_ROWS, **common
        )
        for outcome in ("actions", "observed", "reset", "invalid", "failed"):
            self._requests.labels(outcome)
        for reason in ("token", "sessions"):
            self._refused.labels(reason)

    def session_began(self) -> None:
        """Count a session."""
        self._begun.inc()
        self._sessions.inc()

    def session_ended(self) -> None:
        """Count its end."""
        self._sessions.dec()

    def refused(self, reason: str) -> None:
        """Count a connection that was refused: ``token`` or ``sessions``."""
        self._refused.labels(reason).inc()

    def answered(self, outcome: str) -> None:
        """Count a message: ``actions``, ``observed``, ``reset``, ``invalid`` or ``failed``."""
        self._requests.labels(outcome).inc()

    def predicted(self, answer_s: float, wait_s: float) -> None:
        """Count actions that are sent."""
        self._answer_s.observe(answer_s)
        self._wait_s.observe(wait_s)

    def batch(self, rows: int, predict_s: float) -> None:
        """Count a batch."""
        self._rows.observe(rows)
        self._predict_s.observe(predict_s)

    def page(self) -> bytes:
        """All counters."""
        page: bytes = self._prometheus.generate_latest(self._registry)
        return page
