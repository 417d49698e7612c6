"""What a text most likely means that is not a value as it is written.

Numbers as people and papers write them (``20,000``, ``20k``, ``1e−4`` with a typographic minus), lists of
other languages, words for true, false and null, and characters that look like others or cannot be seen. No
value is read by these rules: they only make the remedy of a fault.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["NOTHING", "meant_choice", "meant_list", "meant_number", "meant_truth", "strange_character"]

NOTHING = ("none", "nil")
"""Words of other languages for null, which would be texts here."""
_TRUE, _FALSE = ("true", "yes", "on", "y", "t"), ("false", "no", "off", "n", "f")
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?"
_TIMES = {"k": 1_000, "m": 1_000_000}
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-")
"""Hyphens, dashes and minus signs of typography."""
_LOOKALIKES = {
    **dict(zip("：，；（）［］｛｝＃＝、【】", ":,;()[]{}#=,[]", strict=True)),
    **dict.fromkeys("“”„«»", '"'),
    **dict.fromkeys("‘’‚", "'"),
}
"""Signs that are not those of YAML, and the signs that are meant."""


def meant_number(text: str, unit: str = "") -> str | None:
    """The number that a text means, as it should be written; None if it means none.

    Args:
        text: What was written.
        unit: The unit of the field; times such as ``1:30`` and ``12h`` are numbers of hours.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_DASHES).strip().strip("'\"").strip()
    if re.fullmatch(_NUMBER, plain):
        return plain
    grouped = re.fullmatch(r"([-+]?[1-9]\d{0,2})((?:[,_' ]\d{3})+)(\.\d+)?", plain)
    if grouped:
        return grouped[1] + re.sub(r"\D", "", grouped[2]) + (grouped[3] or "")
    if re.fullmatch(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?", plain):
        return plain.replace(",", ".")
    times = re.fullmatch(rf"({_NUMBER})\s*([kKmM])", plain)
    if times:
        return f"{float(times[1]) * _TIMES[times[2].lower()]:.12g}"
    percent = re.fullmatch(rf"({_NUMBER})\s*%", plain)
    if percent:
        return f"{float(percent[1]) / 100:.12g}"
    return _hours(plain) if unit == "h" else None


def _hours(text: str) -> str | None:
    named = re.fullmatch(rf"({_NUMBER})\s*(?:h|hr|hrs|hours?)", text)
    if named:
        return named[1]
    clock = re.fullmatch(r"(\d+):([0-5]\d)(?::[0-5]\d)?", text)
    return f"{int(clock[1]) + int(clock[2]) / 60:.4g}" if clock else None


def meant_list(text: str) -> str | None:
    """The list of numbers that a text means: ``(84, 84)``, ``84x84`` or a list in quotes; None if none."""
    plain = unicodedata.normalize("NFKC", text).translate(_DASHES).strip()
    inner = re.fullmatch(rf"[\[(]?\s*({_NUMBER}(?:(?:\s*[,x×]\s*|\s+){_NUMBER})*)\s*,?\s*[\])]?", plain)
    if inner is None or re.fullmatch(_NUMBER, plain):
        return None
    return f"[{', '.join(re.findall(_NUMBER, inner[1]))}]"


def meant_choice(text: str) -> str | None:
    """The choice of whole numbers that a text means: ``0–9``, ``0..9`` or ``0, 1, 2``; None if none."""
    plain = unicodedata.normalize("NFKC", text).translate(_DASHES).strip().strip("[]()").strip()
    ends = re.fullmatch(r"(\d+)\s*(?:-|\.{2,3}|to|~)\s*(\d+)", plain)
    if ends:
        return f"{ends[1]}-{ends[2]}" if int(ends[1]) <= int(ends[2]) else None
    each = re.fullmatch(r"\d+(?:\s*[,;]\s*\d+|\s+\d+)+", plain)
    return f"[{', '.join(re.findall(r'[0-9]+', plain))}]" if each else None


def meant_truth(text: str) -> str | None:
    """``true`` or ``false``, if a text is a word for it; else None."""
    word = text.strip().lower()
    return "true" if word in _TRUE else "false" if word in _FALSE else None


def strange_character(text: str) -> tuple[str, str] | None:
    """The first character of a text that cannot be seen, or looks like a sign of YAML.

    Returns:
        What it is, and what to write; None if every character is an ordinary one.
    """
    for letter in text:
        named = f"U+{ord(letter):04X} {unicodedata.name(letter, '').lower()}".rstrip()
        if letter in _LOOKALIKES:
            return f"{letter} ({named})", f"Write {_LOOKALIKES[letter]} in its place."
        if unicodedata.category(letter) in ("Cf", "Zs", "Zl", "Zp") and letter != " ":
            return f"a character that cannot be seen ({named})", "Delete it, or write a space in its place."
    return None
