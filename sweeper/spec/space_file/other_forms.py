"""What other tools write, in the form of a space file.

Parameters (distributions, functions, lists), and LeRobot's changes of pictures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.spec.space_file.fields import PARAMETER_KEYS
from sweeper.spec.space_file.habits import FUNCTIONS, by_word

__all__ = ["Form", "augmentation_of", "is_form", "number_in", "our_form"]

_LOW = ("min", "low", "lower", "lower_bound", "minimum", "min_value", "start")
_HIGH = ("max", "high", "upper", "upper_bound", "maximum", "max_value", "stop")
_STEP = ("step", "q", "quantization", "step_size")
_VALUES = ("values", "choices", "choice", "categories", "options", "grid_search", "list")
_PAIRS = ("bounds", "range", "interval", "_value", "limits")
_KIND = ("distribution", "_type", "type", "scale", "scale_type", "sampling")
_FIXED = ("value", "constant")
_GROUPS = ("start", "stop", "min_value", "max_value")
_TELLING = {*_LOW, *_HIGH, *_VALUES, *_PAIRS, *_FIXED, "distribution", "_type", "mu", "sigma"} - {*_GROUPS}
"""Settings that a mapping has only if it describes a parameter."""
_CALL = re.compile(r"\s*([A-Za-z_][\w.]*)\s*\((.*)\)\s*", re.DOTALL)
_NUMBER = re.compile(r"[-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?")
_SIGMAS = 2.0
"""Standard deviations on either side that stand for a normal distribution."""


@dataclass(frozen=True)
class Form:
    """A parameter in the form of a space file, and what the reader should know about the translation."""

    settings: Mapping[str, Any]
    remark: str = ""


def is_form(written: Any) -> bool:
    """Whether something describes a parameter rather than being a value or a group of fields."""
    if isinstance(written, Mapping):
        return any(key in _TELLING for key in written)
    return isinstance(written, str) and _called(written) is not None


def our_form(written: Any, kind: str = "float") -> Form | None:
    """The form of a space file for a parameter that was written as in another tool.

    Args:
        written: Plain YAML: a mapping, a list, or a text such as ``choice(1, 2)``.
        kind: Kind of the field (`FieldInfo.kind`).

    Returns:
        None if it is not understood, or if it has the form of a space file already.
    """
    try:
        if isinstance(written, Mapping):
            return _of_mapping(written, kind)
        if isinstance(written, list):
            return _of_list(written, kind)
        return _of_text(written, kind) if isinstance(written, str) else None
    except OverflowError:  # an exponent or a number of steps without measure
        return None


def number_in(text: str) -> float | int | None:
    """The number that a text contains and nothing else; None if it is not a number."""
    text = text.strip().strip("'\"")
    if _NUMBER.fullmatch(text) is None:
        return None
    plain = text.replace("_", "")
    return int(plain) if re.fullmatch(r"[-+]?\d+", plain) else float(plain)


def _of_list(values: Sequence[Any], kind: str) -> Form | None:
    if not values or any(isinstance(value, Mapping) for value in values):
        return None
    plain = [_unquoted(value) for value in values] if _numeric(kind) else list(values)
    pair = len(plain) == 2 and _numeric(kind) and all(_is_number(value) for value in plain)
    remark = ""
    if pair and plain[0] < plain[1]:
        remark = f"For all numbers between them write {{min: {plain[0]:g}, max: {plain[1]:g}}}."
    return Form({"values": plain}, remark)


def _of_mapping(written: Mapping[str, Any], kind: str) -> Form | None:
    found = {key: _unquoted(value) for key, value in written.items()} if _numeric(kind) else dict(written)
    if set(found) <= set(PARAMETER_KEYS):
        return None if found == written else Form(found, "Numbers have no quotes.")
    word = _kind_of(found)
    when = {"when": found["when"]} if "when" in found else {}
    pair = _first(found, _PAIRS)
    values = _first(found, _VALUES)
    if values is None and isinstance(pair, list) and ("choice" in word or "categorical" in word):
        values = pair
    if isinstance(values, list) and values:
        if any(_first(found, names) is not None for names in (_LOW, _HIGH)):
            return None
        remark = "All values are equally likely." if "probabilities" in found else ""
        return Form({"values": values, **when}, remark)
    fixed = _first(found, _FIXED)
    if fixed is not None:
        return Form({"value": fixed})
    low, high = _first(found, _LOW), _first(found, _HIGH)
    if isinstance(pair, list) and len(pair) in (2, 3):
        low, high, *step = (_unquoted(value) for value in pair)
        found = {**found, **({"q": step[0]} if step else {})}
    form = _normal(found, word) if "normal" in word else None
    if form is None and _is_number(low) and _is_number(high):
        form = _between(low, high, found, word, kind)
    return None if form is None else Form({**form.settings, **when}, form.remark)


def _kind_of(found: Mapping[str, Any]) -> str:
    """What other tools say about the distribution, as one word in lower case."""
    words = [str(found[key]).lower() for key in _KIND if key in found]
    if any(found.get(key) is True for key in ("log", "log_scale", "logscale", "use_log", "is_log")):
        words.append("log")
    return " ".join(words)


def _between(low: float, high: float, found: Mapping[str, Any], word: str, kind: str) -> Form:
    remark = ""
    log = "log" in word or "reciprocal" in word
    if "distribution" in found and log and "log_uniform" in word and not word.startswith(_OF_VALUES):
        low, high, remark = _exponents(low, high, inverse=word.startswith("inv_"))
    step = _first(found, _STEP)
    multiple = word.startswith(("q_", "quniform", "qloguniform")) or "q" in found
    if multiple and step is None:
        step = 1
    if kind == "int":
        low, high = max(1, round(low)) if log else round(low), round(high)
    if _is_number(step) and step > 0 and not (kind == "int" and step == 1):
        if log:
            return _doubling(low, high, step)
        if multiple:
            low, high = _rounded(round(low / step) * step), _rounded(round(high / step) * step)
        else:
            high = _rounded(low + math.floor((high - low) / step + 1e-9) * step)
        return Form({"min": low, "max": high, "step": step}, remark)
    return Form({"min": low, "max": high, **({"log": True} if log else {})}, remark)


_OF_VALUES = ("log_uniform_values", "q_log_uniform_values", "inv_log_uniform_values")
"""W&B's logarithmic distributions whose bounds are values; those of the others are exponents of e."""


def _exponents(low: float, high: float, *, inverse: bool) -> tuple[float, float, str]:
    if low > 0 and not inverse:
        # Taken as exponents, every value would be above 1.
        return low, high, "W&B reads the bounds of log_uniform as exponents of e; these look like values."
    ends = sorted(math.exp(-end if inverse else end) for end in (low, high))
    sign = "-" if inverse else ""
    remark = f"W&B's bounds are exponents: e^{sign}{low:g} and e^{sign}{high:g}.".replace("--", "")
    return _rounded(ends[0], 3), _rounded(ends[1], 3), remark


def _doubling(low: float, high: float, step: float) -> Form:
    """Multiples of ``step``, each about twice the one before."""
    values: list[float] = []
    value = max(step, round(low / step) * step)
    while value <= high * (1 + 1e-9) and len(values) < 20:
        values.append(_rounded(value))
        value *= 2
    return Form({"values": values}, "A range with log: true has no step.")


def _normal(found: Mapping[str, Any], word: str) -> Form | None:
    mean, deviation = found.get("mu", 0), found.get("sigma", 1)
    if not (_is_number(mean) and _is_number(deviation)):
        return None
    low, high = mean - _SIGMAS * deviation, mean + _SIGMAS * deviation
    if "log" in word:
        low, high = math.exp(low), math.exp(high)
    ends = {"min": _rounded(low, 3), "max": _rounded(high, 3), **({"log": True} if "log" in word else {})}
    return Form(ends, f"There is no normal distribution; this is {_SIGMAS:g} sigma on either side.")


def _of_text(text: str, kind: str) -> Form | None:
    call = _called(text)
    if call is not None:
        return _of_call(*call, kind)
    parts = _parts(text)
    plain = "{" in text or "[" in text or "(" in text
    return None if plain or len(parts) < 2 else _of_list([_literal(part) for part in parts], kind)


def _called(text: str) -> tuple[str, str] | None:
    """The function and the arguments of a text such as ``tune.choice([1, 2])``, if it is a known one."""
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    name = match[1].lower().rpartition(".")[2]
    return (match[1], match[2]) if name in _FORM_OF or name in _AROUND else None


_FORM_OF = by_word(FUNCTIONS)
_AROUND = ("tag", "shuffle", "sort", "str")
"""Functions of Hydra around another one."""


def _of_call(function: str, arguments: str, kind: str) -> Form | None:
    name = function.lower().rpartition(".")[2]
    plain, named = _arguments(arguments)
    inner = next((text for text in plain if isinstance(text, str) and _called(text)), None)
    if inner is not None:
        form = _of_text(inner, kind)
        if form is None or "log" not in plain or "min" not in form.settings:
            return form
        return Form({"min": form.settings["min"], "max": form.settings["max"], "log": True}, form.remark)
    if name.startswith("suggest_") or function.lower().startswith("hp."):
        plain = plain[1:]  # the name of the parameter
    form_of = _FORM_OF.get(name, "")
    if form_of == "values":
        whole = plain[0] if len(plain) == 1 and isinstance(plain[0], list) else named.get("choices", plain)
        return Form({"values": whole}) if isinstance(whole, list) and whole else None
    if form_of == "range":
        return _of_range(plain, named)
    return _of_ends(form_of, plain, named, function, kind)


def _of_ends(
    form: str, plain: Sequence[Any], named: Mapping[str, Any], function: str, kind: str
) -> Form | None:
    """A function of two bounds, and of a step if there is a third argument."""
    low = _first(named, _LOW, plain[0] if plain else None)
    high = _first(named, _HIGH, plain[1] if len(plain) > 1 else None)
    if not (form and _is_number(low) and _is_number(high)):
        return None
    if form == "log" and function.lower().startswith("hp."):
        low, high, _ = _exponents(low, high, inverse=False)
    if form in ("below", "log_below"):
        high -= 1
    log = form in ("log", "log_below") or named.get("log") is True
    step = _first(named, _STEP, plain[2] if len(plain) > 2 else None)
    settings = {"min": low, "max": high, **({"log": True} if log else {})}
    if _is_number(step):
        return _between(low, high, {"q" if form == "step" else "step": step}, "log" if log else "", kind)
    return Form(settings)


def _of_range(plain: Sequence[Any], named: Mapping[str, Any]) -> Form | None:
    """Hydra's and Python's range: the stop is not part of it."""
    given = [*plain]
    if len(given) == 1 and "stop" not in named:
        given = [0, *given]
    start = _first(named, ("start",), given[0] if given else 0)
    stop = _first(named, ("stop",), given[1] if len(given) > 1 else None)
    step = _first(named, ("step",), given[2] if len(given) > 2 else 1)
    if not all(_is_number(number) for number in (start, stop, step)) or step <= 0 or stop <= start:
        return None
    count = math.ceil((stop - start) / step - 1e-9)
    last = _rounded(start + (count - 1) * step)
    remark = f"The end of a range of Hydra, {stop:g}, is not part of it."
    if count == 1:
        return Form({"value": start}, remark)
    return Form({"min": start, "max": last, **({"step": step} if step != 1 else {})}, remark)


def _arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    plain: list[Any] = []
    named: dict[str, Any] = {}
    for part in _parts(text):
        name, equals, value = part.partition("=")
        if equals and name.strip().isidentifier():
            named[name.strip().lower()] = _literal(value)
        else:
            plain.append(_literal(part))
    return plain, named


def _parts(text: str) -> list[str]:
    """What commas outside brackets and quotes separate."""
    parts, depth, quote, start = [], 0, "", 0
    for position, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _literal(text: str) -> Any:
    text = text.strip()
    if text[:1] in "[(" and text[-1:] in "])" and text:
        return [_literal(part) for part in _parts(text[1:-1])]
    number = number_in(text) if text[:1] not in "'\"" else None
    if number is not None:
        return number
    words = {"true": True, "false": False, "none": None, "null": None}
    return words[text.lower()] if text.lower() in words else text.strip("'\"")


def _numeric(kind: str) -> bool:
    return kind in ("int", "float")


def _unquoted(value: Any) -> Any:
    if isinstance(value, list):
        return [_unquoted(element) for element in value]
    number = number_in(value) if isinstance(value, str) else None
    return value if number is None else number


def _first(found: Mapping[str, Any], names: Sequence[str], otherwise: Any = None) -> Any:
    return next((found[name] for name in names if found.get(name) is not None), otherwise)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _rounded(number: float, digits: int = 12) -> float | int:
    rounded = float(f"{number:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 and digits == 12 else rounded


_LEROBOT_CHANGES: Mapping[str, Any] = {
    "brightness": {"type": "ColorJitter", "kwargs": {"brightness": [0.8, 1.2]}},
    "contrast": {"type": "ColorJitter", "kwargs": {"contrast": [0.8, 1.2]}},
    "saturation": {"type": "ColorJitter", "kwargs": {"saturation": [0.5, 1.5]}},
    "hue": {"type": "ColorJitter", "kwargs": {"hue": [-0.05, 0.05]}},
    "sharpness": {"type": "SharpnessJitter", "kwargs": {"sharpness": [0.5, 1.5]}},
    "affine": {"type": "RandomAffine", "kwargs": {"degrees": [-5.0, 5.0], "translate": [0.05, 0.05]}},
}
"""The changes of pictures that LeRobot makes if its ``image_transforms`` are enabled and list none."""
_CHANGES: Mapping[str, tuple[str, str, float | None]] = {
    "ColorJitter.brightness": ("brightness", "range", 1.0),
    "ColorJitter.contrast": ("contrast", "range", 1.0),
    "ColorJitter.saturation": ("saturation", "range", 1.0),
    "SharpnessJitter.sharpness": ("sharpness", "range", 1.0),
    "ColorJitter.hue": ("hue", "range", 0.0),
    "RandomAffine.degrees": ("affine_degrees", "range", 0.0),
    "RandomAffine.scale": ("affine_scale", "range", 1.0),
    "RandomAffine.translate": ("affine_translate", "equal", None),
    "GaussianBlur.sigma": ("blur_sigma", "largest", None),
    "RandomErasing.p": ("erasing", "largest", None),
    "RandomErasing.scale": ("erasing_scale", "largest", None),
}
"""Arguments of torchvision's transforms: ours below ``augment``, how it follows from theirs, its centre."""
_IGNORED = ("GaussianBlur.kernel_size", "RandomErasing.ratio", "RandomErasing.value", "RandomErasing.inplace")


def augmentation_of(written: Mapping[str, Any]) -> tuple[dict[str, float], list[str]]:
    """LeRobot's ``image_transforms`` as fields of ``augment``, and what to know about them.

    Args:
        written: Its settings: ``enable``, ``tfs`` and others.
    """
    if not written.get("enable"):
        return {}, ["Remove it: it is not enabled."]
    changes = written.get("tfs") or _LEROBOT_CHANGES
    found: dict[str, float] = {}
    remarks: list[str] = []
    for name, change in changes.items() if isinstance(changes, Mapping) else ():
        arguments = change.get("kwargs") if isinstance(change, Mapping) else None
        kind = str(change.get("type")) if isinstance(change, Mapping) else ""
        if kind == "Identity" or (isinstance(change, Mapping) and change.get("weight") == 0):
            continue
        if not isinstance(arguments, Mapping) or not any(key.startswith(f"{kind}.") for key in _CHANGES):
            remarks.append(f"There is nothing here for {kind or change} ({name}).")
            continue
        if kind == "RandomErasing":
            found.setdefault("erasing", 0.5)  # torchvision's default
        for argument, value in arguments.items():
            _put_change(found, remarks, name, f"{kind}.{argument}", value)
    if found:
        most = written.get("max_num_transforms", 3)
        remarks.append(
            f"LeRobot makes at most {most} of these changes to a picture. Here all of them are made; smaller "
            "values make up for it."
        )
    return {f"augment.{name}": value for name, value in found.items()}, remarks


def _put_change(found: dict[str, float], remarks: list[str], name: str, argument: str, value: Any) -> None:
    if argument in _IGNORED or value is None:
        return
    if argument not in _CHANGES:
        remarks.append(f"There is nothing here for {argument} ({name}).")
        return
    ours, rule, centre = _CHANGES[argument]
    ends = value if isinstance(value, list) and len(value) == 2 else [value, value]
    if not all(_is_number(end) for end in ends):
        remarks.append(f"The value {value} of {name} is not a range.")
    elif rule == "largest":
        found[ours] = max(ends)
    elif rule == "equal":
        found[ours] = min(ends)
        if ends[0] != ends[1]:
            remarks.append(
                f"The smaller of {value} is used: augment.{ours} is the same for width and height."
            )
    elif not isinstance(value, list):
        found[ours] = abs(value)
    elif centre is not None and math.isclose(ends[0] + ends[1], 2 * centre, abs_tol=1e-9):
        found[ours] = _rounded((ends[1] - ends[0]) / 2)
    else:
        remarks.append(
            f"The range {value} of {name} is not symmetric around {centre:g}, as augment.{ours} is."
        )
