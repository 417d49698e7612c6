"""Make a draft acceptable to `check`: what it refuses is taken out, and listed with the reason."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.errors import SpecError, SpecFault, UserError
from sweeper.spec.space_file.draft.content import Draft, Written, capitalised
from sweeper.spec.space_file.fields import SETTINGS
from sweeper.spec.space_file.load import load_spec
from trainables.interface import Trainable

__all__ = ["accepted"]

ROUNDS = 12
MOST_VALUES = 16
MOST_NUMBERS = 1024


def accepted(draft: Draft, text_of: Callable[[Draft], str], trainable: Trainable) -> str:
    """The text of the draft, which `check` accepts.

    Args:
        draft: The draft; it is changed.
        text_of: Completes the draft and writes it.
        trainable: The trainable whose fields are meant.

    Raises:
        UserError: If faults remain that no entry of the draft causes.
    """
    faults: tuple[SpecFault, ...] = ()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{draft.name or 'space'}.yaml"
        for _ in range(ROUNDS):
            text = text_of(draft)
            file.write_text(text, encoding="utf-8")
            try:
                load_spec(file)
            except SpecError as error:
                faults = error.faults
                # One fault of each entry: the others may be gone with it.
                first = {_subject(fault): fault for fault in reversed(faults)}
                if not sum(_take_out(draft, fault, trainable) for fault in first.values()):
                    break
            else:
                return text
    listed = "\n".join(f"  {fault.name}: {fault.problem} {fault.remedy}".rstrip() for fault in faults)
    raise UserError(f"no space can be made from {draft.source}, as these cannot go together:\n{listed}")


def _subject(fault: SpecFault) -> str:
    return fault.name.partition("[")[0]


def _take_out(draft: Draft, fault: SpecFault, trainable: Trainable) -> bool:
    """Take out what a fault is about; whether there was such an entry."""
    section, _, rest = fault.name.partition(".")
    reason = f"{capitalised(fault.problem)} {fault.remedy}".strip()
    if section == "parameters":
        name = next((name for name in draft.parameters if rest == name or rest.startswith(f"{name}.")), None)
        return name is not None and _narrow(draft, name, reason, trainable)
    if section == "config":
        named = next((name for name in draft.config if name in reason), "")
        searched = next((name for name in draft.parameters if name in reason), "")
        dropped = any(_drop_field(draft, name, reason) for name in (rest, named, searched))
        return dropped or ("workers" in reason and _drop_setting(draft, "resources", "workers", reason))
    if section.startswith("constraints"):
        number = section.removeprefix("constraints").strip("[]")
        text = draft.constraints.pop(int(number)) if number.isdecimal() else None
        if text is None and draft.constraints:
            text = draft.constraints.pop()
        if text is not None:
            draft.refused.append(text)
            draft.leave(f"constraint `{text}`", None, reason)
        return text is not None
    return _drop_setting(draft, section, rest, reason)


def _drop_field(draft: Draft, name: str, reason: str) -> bool:
    entries = draft.config if name in draft.config else draft.parameters
    if name not in entries:
        return False
    draft.leave(name, entries.pop(name).value, reason)
    return True


def _drop_setting(draft: Draft, section: str, rest: str, reason: str) -> bool:
    section = section.partition("[")[0]
    settings = draft.sections.get(section)
    if settings is None:
        return False
    key = rest.partition(".")[0].partition("[")[0]
    # A metric without its name, or early stopping without its method, says nothing.
    needed = section in ("metric", "early_stop") and key in SETTINGS[section]
    whole = not isinstance(settings, dict) or needed or key not in settings
    value = draft.sections.pop(section) if whole else settings.pop(key)
    draft.comments.pop(section, None)
    draft.leave(section if whole else f"{section}.{key}", value, reason)
    return True


def _narrow(draft: Draft, name: str, reason: str, trainable: Trainable) -> bool:
    """Keep the values of a parameter that can be trained; without any, the parameter is not searched."""
    written = draft.parameters[name]
    legal = _legal(draft, name, written.value, trainable)
    listed = written.value.get("values") if isinstance(written.value, dict) else None
    if not legal or legal == listed:
        draft.leave(name, draft.parameters.pop(name).value, reason)
        return True
    if len(legal) == 1 and "when" not in written.value:
        draft.config[name] = Written(legal[0], "the only value of the source that can be trained")
        del draft.parameters[name]
    else:
        when = {"when": written.value["when"]} if "when" in written.value else {}
        draft.parameters[name] = Written({"values": legal, **when}, written.comment)
    gone = written.value if listed is None else [value for value in listed if value not in legal]
    draft.leave(name, gone, reason)
    return True


def _legal(draft: Draft, name: str, form: Any, trainable: Trainable) -> list[Any]:
    """The values of a parameter that are legal with the fixed values of the draft; at most a few."""
    if not isinstance(form, dict):
        return []
    values = form.get("values")
    if not isinstance(values, list):
        values = _whole_numbers(form)
    # Other parameters may be what a value needs, so the faults of other fields count only if no value has one
    # of its own.
    given = draft.fixed
    found = [v for v in values if not any(f.where == name for f in trainable.faults({**given, name: v}))]
    if len(found) == len(values):
        known = {fault.where for fault in trainable.faults(given)}
        found = [v for v in values if all(f.where in known for f in trainable.faults({**given, name: v}))]
    return found if len(found) <= MOST_VALUES else []


def _whole_numbers(form: dict[str, Any]) -> list[int]:
    """The values of a range of whole numbers; none if they are too many, or no whole numbers."""
    low, high, step = form.get("min"), form.get("max"), form.get("step", 1)
    if not (isinstance(low, int) and isinstance(high, int) and isinstance(step, int)):
        return []
    few = step >= 1 and (high - low) // step <= MOST_NUMBERS
    return list(range(low, high + 1, step)) if few else []
