"""Sends an alert to a webhook or to a command.

The address of a webhook is a secret: no message contains it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from sweeper.alerts.messages import Alert
from sweeper.masking import masked
from sweeper.spec.alerts import AlertFormat
from sweeper.text import shortened

__all__ = ["ATTEMPTS", "DeliveryError", "format_of", "payload", "place_of", "run_command", "send_webhook"]

TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0
ATTEMPTS = 3
PAUSES_S = (2.0, 8.0)
LONGEST_PAUSE_S = 30.0
DISCORD_LENGTH = 2000
"""A longer message is refused by Discord."""
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)


class DeliveryError(Exception):
    """An alert could not be delivered; the message has no secret."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: urllib would turn the request into one without a body."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse it."""


def send_webhook(
    address: str, format: AlertFormat, alert: Alert, pause: Callable[[float], object] = time.sleep
) -> int:
    """Post an alert; returns the number of attempts.

    Args:
        address: The address of the webhook.
        format: What it receives.
        alert: The alert.
        pause: Waits before the next attempt.

    Raises:
        DeliveryError: If the last attempt failed, or no other attempt can succeed.
    """
    body = json.dumps(payload(alert, format_of(address, format))).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "sweeper"}
    opener = urllib.request.build_opener(_NoRedirect)
    for attempt in range(1, ATTEMPTS + 1):
        wait_s = PAUSES_S[min(attempt, len(PAUSES_S)) - 1]
        try:
            request = urllib.request.Request(address, body, headers, method="POST")
            with opener.open(request, timeout=TIMEOUT_S):
                return attempt
        except urllib.error.HTTPError as error:
            with error:
                why = f"{place_of(address)} answered {error.code} {error.reason}"
                if error.code not in TRANSIENT:
                    raise DeliveryError(_clean(why, address)) from None
                asked = error.headers.get("Retry-After", "")
            wait_s = min(float(asked), LONGEST_PAUSE_S) if asked.isdigit() else wait_s
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            why = f"{place_of(address)} cannot be reached: {reason}"
        if attempt < ATTEMPTS:
            pause(wait_s)
    raise DeliveryError(_clean(f"{why} ({ATTEMPTS} attempts)", address))


def run_command(command: str, alert: Alert) -> None:
    """Run the command of a user with an alert.

    It receives the alert as JSON on its standard input, and in the variables ``SWEEPER_ALERT_EVENT``,
    ``SWEEPER_ALERT_SWEEP``, ``SWEEPER_ALERT_TITLE`` and ``SWEEPER_ALERT_TEXT``.

    Raises:
        DeliveryError: If it fails, or does not end in time; it is then killed with its children.
    """
    names = {"EVENT": alert.event, "SWEEP": alert.sweep, "TITLE": alert.title, "TEXT": alert.text}
    variables = {f"SWEEPER_ALERT_{name}": text for name, text in names.items()}
    with subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | variables,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(json.dumps(alert.to_dict()).encode(), COMMAND_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise DeliveryError(f"the command did not end within {COMMAND_TIMEOUT_S:.0f} s") from None
    if process.returncode:
        lines = output.decode(errors="replace").strip().splitlines()
        said = f": {shortened(masked(lines[-1]), 200)}" if lines else ""
        raise DeliveryError(f"the command ended with {process.returncode}{said}")


def format_of(address: str, format: AlertFormat) -> AlertFormat:
    """The format of a webhook, by its host if it is not named."""
    if format != "auto":
        return format
    host = urlsplit(address).hostname or ""
    if host.endswith("slack.com"):
        return "slack"
    return "discord" if host.endswith(("discord.com", "discordapp.com")) else "json"


def payload(alert: Alert, format: AlertFormat) -> dict[str, Any]:
    """What a webhook receives."""
    match format:
        case "slack":
            return {"text": alert.plain_text()}
        case "discord":
            return {"content": shortened(alert.plain_text(), DISCORD_LENGTH)}
        case _:
            return alert.to_dict()


def place_of(address: str) -> str:
    """The part of an address that may be shown: its host."""
    try:
        return urlsplit(address).hostname or "the webhook"
    except ValueError:
        return "the webhook"


def _clean(text: str, address: str) -> str:
    return shortened(masked(text.replace(address, "the webhook")), 300)
