"""Passwords and tokens, which are removed from everything that is recorded or shown."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence

__all__ = ["HIDDEN", "has_password", "masked", "masked_command", "safe_uri"]

HIDDEN = "***"
SHORTEST = 6
"""A shorter value is not a real secret, and would mask ordinary words."""
_SECRET = re.compile(r"token|passw|secret|api_?key|access_?key|credential", re.IGNORECASE)
_WEBHOOK = re.compile(r"webhook", re.IGNORECASE)
"""Anyone who has the address of a webhook can write to it, so it is a secret although it is an address."""
_PLACE = re.compile(r"_(?:PATH|FILE|DIR|URL|URI|MODE)$")
_LOGIN = re.compile(r"(?<![\w+.-])([a-zA-Z][\w+.-]*://)[^/@\s\"'\\]+@")
"""For addresses in a text, which end at a quote or a backslash."""
_OWN_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
"""For an address alone, whose password may contain these."""
# Object stores have no ports, and the keys of some contain slashes.
_STORE_LOGIN = re.compile(r"\b((?:s3a?|gs|gcs|az|abfss?)://)[^/@:\s\"'\\]+:[^@\s\"'\\]+@")
_CHAT_HOOK = re.compile(r"(https?://[\w.-]+/(?:services|api/(?:v\d+/)?webhooks)/)[^\s\"'\\]+")
"""The addresses of webhooks of Slack and Discord, whose path is a secret."""
_GIVEN = re.compile(r"(--?[\w-]*|[\w.]*)(?:token|passw(?:or)?d|secret|api[_-]?key)[\w-]*", re.IGNORECASE)


def has_password(uri: str) -> bool:
    """Whether an address contains a user's name or password."""
    return _LOGIN.search(uri) is not None


def safe_uri(uri: str) -> str:
    """An address without a user's name and password, which may be shown."""
    return _OWN_LOGIN.sub("", uri)


def masked(text: str) -> str:
    """A text without the credentials of addresses and the secrets of the environment.

    A secret of the environment is the value of a variable whose name contains such a word, like
    ``HF_TOKEN`` or ``MLFLOW_TRACKING_PASSWORD``. It is also found in its escaped form in JSON.
    """
    if "@" in text:
        text = _LOGIN.sub(rf"\g<1>{HIDDEN}@", _STORE_LOGIN.sub(rf"\g<1>{HIDDEN}@", text))
    if "/services/" in text or "/webhooks/" in text:
        text = _CHAT_HOOK.sub(rf"\g<1>{HIDDEN}", text)
    for secret in _secrets():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def masked_command(words: Sequence[str]) -> str:
    """A command line for a shell, without secrets, and without values that it names as secrets.

    ``--token abc``, ``--token=abc`` and ``a.password=abc`` lose the value.
    """
    shown, hide = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        named = _GIVEN.fullmatch(name) is not None
        if hide:
            shown.append(HIDDEN)
        elif named and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(word)
        hide = named and not equals and word.startswith("-")
    return masked(shlex.join(shown))


def _secrets() -> list[str]:
    """The secrets of the environment, longest first: one may be the beginning of another."""
    found = set()
    for name, value in os.environ.items():
        named = _WEBHOOK.search(name) or (_SECRET.search(name) and not _PLACE.search(name))
        if len(value) >= SHORTEST and named:
            found |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    for name in ("MLFLOW_TRACKING_URI", "HTTPS_PROXY", "HTTP_PROXY"):
        login = os.environ.get(name, "").rpartition("@")[0].rpartition("/")[2]
        password = login.partition(":")[2]
        found |= {password} if len(password) >= SHORTEST else set()
    return sorted(found, key=len, reverse=True)
