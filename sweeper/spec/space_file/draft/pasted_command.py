"""A pasted command of LeRobot as nested settings: ``lerobot-train --policy.type=diffusion ...``.

Also ``python lerobot/scripts/train.py``, launchers in front of it, and the overrides of Hydra that LeRobot
had at first (``policy=diffusion training.offline_steps=200000``).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.errors import UserError
from sweeper.spec.space_file.yaml_nodes import FaultList, parse_override

__all__ = ["PastedCommand", "read_command"]

PROGRAM = re.compile(r"(?:^|/|which )lerobot-train\)?$|(?:^|/)train(?:_\w+)?\.py$")
"""A word that is LeRobot's program, and no value of the switch before it."""
CONFIG_FILE = ("config_path", "config")
RUN_DEFAULTS: Mapping[str, Any] = {"steps": 100_000, "batch_size": 8, "optimizer": {"type": "adam"}}
"""What `lerobot-train` (0.3 to 0.6) uses if the command does not say it, and this service does not."""


@dataclass(frozen=True)
class PastedCommand:
    """A command, taken apart.

    Attributes:
        text: The command as one line.
        settings: Its flags as nested mappings.
        config_file: The file of settings that it names; None if none.
        is_lerobot_train: Whether it is LeRobot's command with flags, whose defaults are known.
    """

    text: str
    settings: dict[str, Any]
    config_file: str | None
    is_lerobot_train: bool


def read_command(words: Sequence[str]) -> PastedCommand:
    """Take a command apart.

    Args:
        words: Its words, or the whole command as one.

    Raises:
        UserError: If it has no flags, or one cannot be read.
    """
    if len(words) == 1:
        try:
            words = shlex.split(words[0].replace("\\\n", " "))
        except ValueError as error:
            raise UserError(f"the command cannot be read: {error}. Check its quotes.") from error
    words = [_with_dashes(word) for word in words if word.strip() not in ("", "\\")]
    flags = list(_flags(words))
    if not flags:
        raise UserError(
            "the command has no settings. Paste it whole, after --: "
            "sweeper init space.yaml -- lerobot-train --policy.type=diffusion --dataset.repo_id=lerobot/pusht"
        )
    settings: dict[str, Any] = {}
    config_file = None
    for key, raw in flags:
        if key in CONFIG_FILE:
            config_file = raw
        else:
            _put(settings, key.split("."), _value(key, raw))
    dashes = any(word.startswith("--") for word in words)
    named = any("lerobot" in word and "=" not in word for word in words)
    return PastedCommand(shlex.join(words), settings, config_file, dashes and named)


def _with_dashes(word: str) -> str:
    """The word of a command that was copied from a page, on which two hyphens became a dash."""
    return re.sub(r"^[\u2013\u2014\u2212]+(?=\w)", "--", word)


def _flags(words: Sequence[str]) -> list[tuple[str, str]]:
    """The flags of a command: ``--key=value``, ``--key value``, ``--switch``, ``key=value``."""
    found: list[tuple[str, str]] = []
    waiting: str | None = None
    for word in words:
        if waiting is not None:
            if not word.startswith("--") and not PROGRAM.search(word):
                found.append((waiting, word))
                waiting = None
                continue
            found.append((waiting, "true"))
            waiting = None
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            if equals:
                found.append((name[2:], value))
            elif len(word) > 2:
                waiting = name[2:]
        elif equals and not name.isupper() and "/" not in name:
            found.append((name.lstrip("+~"), value))
    if waiting is not None:
        found.append((waiting, "true"))
    return found


def _value(key: str, raw: str) -> Any:
    """The value of a flag, read as YAML."""
    if not raw.strip():
        return None
    override = parse_override(f"{key}={raw}", FaultList())
    return raw if override is None else override.value.plain()


def _put(settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Put a value where a dotted name says; ``policy=diffusion`` beside ``policy.horizon`` is its type."""
    *groups, last = path
    for group in groups:
        inner = settings.get(group)
        if not isinstance(inner, dict):
            inner = settings[group] = {} if inner is None else {"type": inner}
        settings = inner
    if isinstance(settings.get(last), dict) and not isinstance(value, dict):
        settings[last]["type"] = value
    elif last == "policy":
        settings[last] = {"type": value}
    else:
        settings[last] = value
