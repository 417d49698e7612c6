"""Passwords and tokens: what is written down or shown is written without them."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence

__all__ = ["HIDDEN", "has_password", "masked", "masked_command", "safe_uri"]

HIDDEN = "***"
SHORTEST = 6
"""A value that is shorter is not a secret worth the name, and would blot out innocent words."""
_SECRET = re.compile(r"token|passw|secret|api_?key|access_?key|credential", re.IGNORECASE)
_PLACE = re.compile(r"_(?:PATH|FILE|DIR|URL|URI|MODE)$")
_LOGIN = re.compile(r"(?<![\w+.-])([a-zA-Z][\w+.-]*://)[^/@\s\"'\\]+@")
"""In a text, where an address ends at a quote or a backslash."""
_OWN_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
"""In an address that stands alone, where a password may hold these."""
# Object stores have no ports, and the keys of some hold slashes.
_STORE_LOGIN = re.compile(r"\b((?:s3a?|gs|gcs|az|abfss?)://)[^/@:\s\"'\\]+:[^@\s\"'\\]+@")
_GIVEN = re.compile(r"(--?[\w-]*|[\w.]*)(?:token|passw(?:or)?d|secret|api[_-]?key)[\w-]*", re.IGNORECASE)


def has_password(uri: str) -> bool:
    """Whether an address holds a user's name or password."""
    return _LOGIN.search(uri) is not None


def safe_uri(uri: str) -> str:
    """An address as it may be shown: without a user's name and password."""
    return _OWN_LOGIN.sub("", uri)


def masked(text: str) -> str:
    """A text without the logins of addresses, and without the secrets of the environment.

    What counts as a secret of the environment is the value of every variable with a telling name, such as
    ``HF_TOKEN`` or ``MLFLOW_TRACKING_PASSWORD``; also where the text is JSON, and has it escaped.
    """
    if "@" in text:
        text = _LOGIN.sub(rf"\g<1>{HIDDEN}@", _STORE_LOGIN.sub(rf"\g<1>{HIDDEN}@", text))
    for secret in _secrets():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def masked_command(words: Sequence[str]) -> str:
    """A command line as a shell takes it, without secrets; also without those that are only named so in it.

    ``--token abc``, ``--token=abc`` and ``a.password=abc`` lose what is behind the name.
    """
    shown, hide = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        telling = _GIVEN.fullmatch(name) is not None
        if hide:
            shown.append(HIDDEN)
        elif telling and equals:
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(word)
        hide = telling and not equals and word.startswith("-")
    return masked(shlex.join(shown))


def _secrets() -> list[str]:
    """The secrets of the environment, longest first: one may begin another."""
    found = set()
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and _SECRET.search(name) and not _PLACE.search(name):
            found |= {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    for name in ("MLFLOW_TRACKING_URI", "HTTPS_PROXY", "HTTP_PROXY"):
        login = os.environ.get(name, "").rpartition("@")[0].rpartition("/")[2]
        password = login.partition(":")[2]
        found |= {password} if len(password) >= SHORTEST else set()
    return sorted(found, key=len, reverse=True)
