"""Messages between a policy server and its clients: msgpack with numpy arrays, without pickle.

An array is a map of four entries, as openpi's clients send it: ``b"__ndarray__"``, ``b"data"`` (the bytes in
C order), ``b"dtype"`` (as `numpy.dtype.str` gives it) and ``b"shape"``. A numpy scalar has
``b"__npgeneric__"`` instead, and its value as data.

A server first sends its description. Then each message of a client gets one answer, in order. A text frame as
answer is an error.

numpy and msgpack only: clients import it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = [
    "ACTIONS",
    "COMMAND",
    "GENERATOR",
    "KEPT",
    "KNOWN",
    "N_ACTION_STEPS",
    "OBSERVE",
    "RESET",
    "SEED",
    "TIMING",
    "VERSION",
    "ProtocolError",
    "pack",
    "require",
    "unpack",
]

VERSION = 1
"""Of the messages; part of the server's description."""

COMMAND = "command"
"""Entry of a message that is more than an observation; its values are `RESET` and `OBSERVE`."""
RESET = "reset"
OBSERVE = "observe"
SEED = "seed"
GENERATOR = "generator"
"""Entry of a message, and of its answer: the state of the generators of the noise, one per row."""
N_ACTION_STEPS = "n_action_steps"
"""Entry of a message: how many actions are wanted, if not as many as the policy is meant to execute."""
KNOWN, KEPT = "known", "kept"
"""Entries of a message: actions that the chunk continues, and the weight of each from 0 to 1."""
ACTIONS = "actions"
TIMING = "server_timing"

_ARRAY, _SCALAR, _DATA, _DTYPE, _SHAPE = b"__ndarray__", b"__npgeneric__", b"data", b"dtype", b"shape"
_KINDS = "biuf"
_DTYPE_NAME = re.compile(r"[<>|=]?[biuf]\d{1,2}|bool|u?int(8|16|32|64)|float(16|32|64)")
_MOST_DIMENSIONS = 16
_MOST_ENTRIES = 4096
"""Elements of a list or a map. A header may claim any number, and msgpack reserves memory for it."""
_INSTALL = 'pip install "diffusion-policy-sweeper[serve]"'


class ProtocolError(ValueError):
    """A message cannot be written, or is not one of this protocol."""


def require(package: str) -> Any:
    """Import a package of the extra ``serve``.

    Raises:
        ImportError: If it is not installed, with the command that installs it.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = package.partition(".")[0].replace("_", "-")
        raise ImportError(f"Serving policies needs the package {name}. Install it: {_INSTALL}.") from error


def pack(message: Any) -> bytes:
    """Write a message.

    Raises:
        ProtocolError: If it contains something that cannot be sent, e.g. an array of objects.
    """
    msgpack = require("msgpack")
    try:
        packed: bytes = msgpack.packb(message, default=_encoded)
    except ProtocolError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"a message cannot be sent: {error}") from error
    return packed


def unpack(data: bytes) -> Any:
    """Read a message. Its arrays cannot be written to.

    Raises:
        ProtocolError: If it is not one message of this protocol.
    """
    msgpack = require("msgpack")
    try:
        return msgpack.unpackb(
            data,
            object_hook=_decoded,
            max_array_len=_MOST_ENTRIES,
            max_map_len=_MOST_ENTRIES,
            max_ext_len=0,
        )
    except ProtocolError:
        raise
    # msgpack's own exceptions, bad UTF-8, bad map keys, and nesting that is too deep.
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        problem = str(error) or type(error).__name__
        raise ProtocolError(f"the message is not valid msgpack: {problem}") from error


def _encoded(value: Any) -> Any:
    """What msgpack writes for a value that it does not know."""
    if isinstance(value, np.ndarray):
        _check_kind(value.dtype)
        # Not the array's own order of bytes in memory: a transposed picture is sent row by row.
        return {_ARRAY: True, _DATA: value.tobytes(), _DTYPE: value.dtype.str, _SHAPE: value.shape}
    if isinstance(value, np.generic):
        _check_kind(value.dtype)
        return {_SCALAR: True, _DATA: value.item(), _DTYPE: value.dtype.str}
    raise ProtocolError(
        f"a {type(value).__name__} cannot be sent: only numbers, texts, lists, maps and arrays"
    )


def _check_kind(dtype: np.dtype[Any]) -> None:
    if dtype.kind not in _KINDS or dtype.itemsize > 8:
        raise ProtocolError(
            f"an array of {dtype} cannot be sent: only booleans, integers and floats up to 64 bits"
        )


def _decoded(value: dict[Any, Any]) -> Any:
    """The array or the scalar that a map stands for; other maps stay as they are."""
    if _ARRAY in value:
        return _array(value)
    if _SCALAR in value:
        return _scalar(value)
    return value


def _array(value: Mapping[Any, Any]) -> np.ndarray:
    dtype, shape, data = _dtype(value), value.get(_SHAPE), value.get(_DATA)
    if not isinstance(shape, (list, tuple)) or not all(type(size) is int and size >= 0 for size in shape):
        raise ProtocolError(f"an array has the shape {_short(shape)}: not a list of sizes")
    if len(shape) > _MOST_DIMENSIONS:
        raise ProtocolError(f"an array has {len(shape)} dimensions: at most {_MOST_DIMENSIONS} are allowed")
    if not isinstance(data, bytes):
        raise ProtocolError("an array has no bytes as data")
    needed = math.prod(shape) * dtype.itemsize
    if len(data) != needed:
        raise ProtocolError(
            f"an array of {dtype} with the shape {list(shape)} has {len(data)} bytes of data, not {needed}"
        )
    try:
        return np.frombuffer(data, dtype).reshape(shape)
    except (ValueError, OverflowError) as error:  # an empty array whose other sizes are absurd
        raise ProtocolError(f"an array has an impossible shape: {error}") from error


def _scalar(value: Mapping[Any, Any]) -> np.generic:
    dtype, data = _dtype(value), value.get(_DATA)
    if not isinstance(data, (bool, int, float)):
        raise ProtocolError(f"a scalar has the value {_short(data)}: not a number")
    try:
        scalar: np.generic = dtype.type(data)
    except (ValueError, OverflowError) as error:
        raise ProtocolError(f"a scalar of {dtype} has the value {_short(data)}: {error}") from error
    return scalar


def _dtype(value: Mapping[Any, Any]) -> np.dtype[Any]:
    """The type of an array. Only names of plain numbers reach numpy: objects need pickle."""
    name = value.get(_DTYPE)
    if not isinstance(name, str) or not _DTYPE_NAME.fullmatch(name):
        raise ProtocolError(
            f"an array has the dtype {_short(name)}: only booleans, integers and floats are allowed"
        )
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise ProtocolError(f"an array has the dtype {_short(name)}, which numpy does not know") from error
    _check_kind(dtype)
    return dtype


def _short(value: Any) -> str:
    """A value in a message, which may be of any length."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
