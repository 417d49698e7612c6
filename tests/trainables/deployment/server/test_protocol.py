"""Messages: what is sent arrives the same, and nothing that arrives can do harm."""

from __future__ import annotations

import contextlib
import pickle
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from trainables.deployment.server.protocol import ProtocolError, pack, unpack

DTYPES = st.sampled_from(
    [np.dtype(name) for name in ("?", "u1", "<i4", ">i4", "<u8", "<f2", "<f4", ">f8", "i1")]
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
    | ARRAYS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def assert_same(read: Any, sent: Any) -> None:
    if isinstance(sent, np.ndarray):
        assert isinstance(read, np.ndarray)
        assert (read.dtype, read.shape) == (sent.dtype, sent.shape)
        assert read.tobytes() == sent.tobytes()
    elif isinstance(sent, dict):
        assert list(read) == list(sent)
        for name, value in sent.items():
            assert_same(read[name], value)
    elif isinstance(sent, list):
        assert len(read) == len(sent)
        for one, other in zip(read, sent, strict=True):
            assert_same(one, other)
    else:
        assert type(read) is type(sent)
        assert read == sent or (read != read and sent != sent)


@pytest.mark.slow
@given(VALUES)
def test_what_is_sent_arrives_the_same(value: Any) -> None:
    assert_same(unpack(pack(value)), value)


@pytest.mark.slow
@given(
    st.binary(max_size=200)
    | VALUES.map(pack).flatmap(lambda data: st.integers(0, len(data)).map(lambda n: data[:n]))
)
def test_garbage_is_a_protocol_error_and_nothing_else(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        unpack(data)


def test_arrays_are_written_as_openpi_clients_write_them() -> None:
    sent = pack({"state": np.array([[1.5, 2.5]], dtype=np.float32), "step": np.int64(7)})
    assert msgpack.unpackb(sent) == {
        "state": {
            b"__ndarray__": True,
            b"data": struct.pack("<2f", 1.5, 2.5),
            b"dtype": "<f4",
            b"shape": [1, 2],
        },
        "step": {b"__npgeneric__": True, b"data": 7, b"dtype": "<i8"},
    }


def test_a_transposed_picture_keeps_its_pixels() -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3).transpose(2, 0, 1)
    assert_same(unpack(pack(picture)), np.ascontiguousarray(picture))


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], dtype=object),
        np.array(["a"]),
        np.zeros(1, dtype=[("x", "f4")]),
        np.zeros(1, dtype=complex),
        np.zeros(1, dtype="M8[s]"),
        np.zeros(1, dtype=np.longdouble),
        {1, 2},
        {"deep": [object()]},
        2**64,
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_what_is_not_a_number_is_not_sent(value: Any) -> None:
    with pytest.raises(ProtocolError):
        pack(value)


def array(**changes: Any) -> bytes:
    described = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2], **changes}
    return msgpack.packb({name.encode(): value for name, value in described.items()})


class Hostile:
    """Its pickle runs a command when it is read."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was read",))


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (array(dtype="O", data=pickle.dumps(Hostile())), "the dtype 'O'"),
        (array(dtype="|O8"), "the dtype '|O8'"),
        (array(dtype="V8"), "the dtype 'V8'"),
        (array(dtype="f4,O"), "the dtype 'f4,O'"),
        (array(dtype="<U2"), "the dtype '<U2'"),
        (array(dtype="M8[s]"), "the dtype 'M8[s]'"),
        (array(dtype="f3"), "does not know"),
        (array(dtype="<f16"), "float128"),
        (array(dtype=["f4"]), "the dtype"),
        (array(shape=[3]), "8 bytes of data, not 12"),
        (array(shape=[-2]), "not a list of sizes"),
        (array(shape=[0, 2**62], data=b""), "impossible shape"),
        (array(shape=[1.5]), "not a list of sizes"),
        (array(shape=[True, 2]), "not a list of sizes"),
        (array(shape=2), "not a list of sizes"),
        (array(shape=[1] * 40, data=bytes(4)), "40 dimensions"),
        (array(data="12345678"), "no bytes"),
        (array(data=None), "no bytes"),
        (msgpack.packb({b"__ndarray__": True}), "the dtype None"),
        (msgpack.packb({b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}), "not a number"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 300, b"dtype": "u1"}), "300"),
        (b"", "not valid msgpack"),
        (b"\xc1", "not valid msgpack"),
        (pack(1) + pack(2), "not valid msgpack"),
        (b"\x91" * 5000 + b"\x00", "not valid msgpack"),
        (b"\xdd\xff\xff\xff\xff", "not valid msgpack"),
        (b"\x81\x01\x02", "not valid msgpack"),
        (b"\xa2\xff\xfe", "not valid msgpack"),
        (msgpack.packb(msgpack.ExtType(5, b"xx")), "not valid msgpack"),
    ],
)  # fmt: skip
def test_a_hostile_message_is_refused_with_its_fault(data: bytes, problem: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        unpack(data)
    assert problem in str(caught.value)


def test_a_header_that_claims_millions_of_entries_reserves_no_memory() -> None:
    # Each of 500 nested lists claims a million entries: 4 GB of pointers if they were believed.
    claimed = b"\xdd" + struct.pack(">I", 1_000_000)
    with pytest.raises(ProtocolError, match="exceeds max_array_len"):
        unpack(claimed * 500 + bytes(1_000_000))
