"""Who hears of a sweep, and of what, in the space file's section ``alerts``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["EVENTS", "FORMATS", "AlertEvent", "AlertFormat", "AlertsSpec", "secret_in", "variable_of"]

AlertEvent = Literal["ended", "failed", "full_disk", "best", "silent"]
AlertFormat = Literal["auto", "slack", "discord", "json"]
EVENTS: tuple[AlertEvent, ...] = ("ended", "failed", "full_disk", "best", "silent")
FORMATS: tuple[AlertFormat, ...] = ("auto", "slack", "discord", "json")
_SECRET_PATHS = ("/services/", "/api/webhooks/", "/webhook/", "/webhooks/", "/hooks/", "/workflows/")
"""Parts of the addresses of chat services after which a token follows."""


@dataclass(frozen=True)
class AlertsSpec:
    """Alerts of a sweep.

    Attributes:
        webhook: ``$NAME``, an environment variable that contains the address, or an address without secrets;
            None for no webhook.
        format: What the webhook receives; ``auto``: by its host.
        command: A command for the shell; None for no command.
        on: The events that are told.
        silent_minutes: Minutes without a sign of running trials after which they count as silent.
    """

    webhook: str | None = None
    format: AlertFormat = "auto"
    command: str | None = None
    on: tuple[AlertEvent, ...] = EVENTS
    silent_minutes: float = 30.0

    def address(self, environment: Mapping[str, str] | None = None) -> str | None:
        """The address of the webhook; None if there is none, or if its variable is not set."""
        name = variable_of(self.webhook)
        if name is None:
            return self.webhook
        return (os.environ if environment is None else environment).get(name) or None

    def to_dict(self) -> dict[str, Any]:
        """The section as plain types; `from_dict` reads it back equal."""
        return {
            "webhook": self.webhook,
            "format": self.format,
            "command": self.command,
            "on": list(self.on),
            "silent_minutes": self.silent_minutes,
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> AlertsSpec:
        """The section that `to_dict` wrote."""
        return AlertsSpec(**{**plain, "on": tuple(plain["on"])})


def variable_of(webhook: str | None) -> str | None:
    """The environment variable that a webhook names (``$NAME`` or ``${NAME}``); None if it names none."""
    if webhook is None or not webhook.startswith("$"):
        return None
    return webhook[1:].removeprefix("{").removesuffix("}")


def secret_in(address: str) -> bool:
    """Whether an address seems to contain a secret, as those of chat services do."""
    return "?" in address or any(part in address for part in _SECRET_PATHS)
