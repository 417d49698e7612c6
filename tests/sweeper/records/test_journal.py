"""The journal keeps every event, whatever dies."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from small_sweeps import fill

from sweeper.errors import TrackingError
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal, events_in, read_journal


def test_what_is_appended_is_read_back_in_order(tmp_path):
    with Journal(tmp_path / "new folder" / "journal.jsonl") as journal:
        first = journal.append(EventKind.TRIAL_START, trial=0, config={"policy.down_dims": (64, 128)})
        second = journal.append(
            EventKind.REPORT, durable=False, trial=0, step=10, metrics={"train/loss": 0.5}
        )
    chunk = read_journal(journal.path)
    assert chunk.events == [first, second]
    assert first["config"] == {"policy.down_dims": [64, 128]}
    assert chunk.offset == journal.path.stat().st_size


def test_every_line_is_strict_json_even_with_nan_paths_and_numpy_numbers(tmp_path):
    with Journal(tmp_path / "journal.jsonl") as journal:
        metrics = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": np.float32(0.5), "e": np.int64(3)}
        journal.append(EventKind.REPORT, trial=0, step=1, metrics=metrics, artifacts={"v": Path("a/b.mp4")})

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    event = json.loads(journal.path.read_text(), parse_constant=refuse)
    values = {name: float(value) for name, value in event["metrics"].items()}
    assert math.isnan(values.pop("a"))
    assert values == {"b": math.inf, "c": -math.inf, "d": 0.5, "e": 3}
    assert event["artifacts"] == {"v": "a/b.mp4"}


def test_a_line_that_was_cut_short_is_left_out_and_spoils_no_other(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(EventKind.NOTE, text="first")
        journal.append(EventKind.NOTE, text="second, which the crash cuts")
    path.write_bytes(path.read_bytes()[:-9])
    assert [event["text"] for event in read_journal(path).events] == ["first"]
    with Journal(path) as journal:
        journal.append(EventKind.NOTE, text="third")
    chunk = read_journal(path)
    assert [event["text"] for event in chunk.events] == ["first", "third"]


def test_reading_goes_on_where_it_stopped_and_leaves_an_unfinished_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append(EventKind.NOTE, text="one")
        first = read_journal(path)
        with path.open("ab") as other:
            other.write(b'{"event": "note", "time": 1')
        half = read_journal(path, first.offset)
        assert half.events == []
        assert half.offset == first.offset
        with path.open("ab") as other:
            other.write(b', "text": "two"}\n')
    assert [event["text"] for event in read_journal(path, half.offset).events] == ["two"]


def test_a_small_chunk_still_holds_one_whole_event(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        for number in range(20):
            journal.append(EventKind.NOTE, text="x" * (10 * number))
    offset, texts = 0, []
    while events := (chunk := read_journal(path, offset, max_bytes=64)).events:
        texts += [event["text"] for event in events]
        offset = chunk.offset
    assert texts == ["x" * (10 * number) for number in range(20)]


def test_threads_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:

        def write(name):
            for number in range(50):
                journal.append(EventKind.NOTE, durable=False, text=name * 200, number=number)

        threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    chunk = read_journal(path)
    for name in "abcd":
        assert [e["number"] for e in chunk.events if e["text"] == name * 200] == list(range(50))


def test_a_journal_that_is_not_there_has_no_events(tmp_path):
    assert read_journal(tmp_path / "journal.jsonl").events == []


def test_a_full_disk_is_a_clear_error(tmp_path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "journal.jsonl").symlink_to(full)
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(TrackingError, match="the journal cannot be written"):
        journal.append(EventKind.NOTE, durable=False, text="x")
    journal.close()


def test_when_the_disk_is_full_there_is_still_space_to_record_how_everything_ended(small_disk):
    with Journal(small_disk / "journal.jsonl") as journal:
        journal.append(EventKind.NOTE, text="all is well")
        fill(small_disk)
        assert journal.problem == ""
        for number in range(100):
            journal.append(EventKind.NOTE, text="x" * 1000, number=number)
        assert "There is no room left" in journal.problem
        assert journal.problem.endswith("Free some space, then resume the sweep.")
        assert [e.get("number") for e in read_journal(journal.path).events] == [None, *range(100)]
        # What is still written by somebody else ends it.
        fill(small_disk)
        with pytest.raises(TrackingError, match="the journal cannot be written"):
            journal.append(EventKind.NOTE, text="x" * 10_000)
        (small_disk / "full").unlink()
        journal.append(EventKind.NOTE, text="room again")
    found = read_journal(small_disk / "journal.jsonl")
    assert found.events[-1]["text"] == "room again"


def test_a_sweep_does_not_begin_on_a_disk_that_is_full(small_disk):
    fill(small_disk)
    with pytest.raises(TrackingError, match="No space left on device"):
        Journal(small_disk / "journal.jsonl")


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="cannot be written"):
        Journal(tmp_path / "file" / "journal.jsonl")


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "note", "time": 1, "text": "caf\xc3\xa9"}',
        b' {"event": "note", "time": 1} ',
        b'\xef\xbb\xbf{"event": "note", "time": 1}',
        b'{"event": "note", "time": 1, "text": "\xed\xa0\x80"}',
        b'{"event": "note", "time": NaN}',
        '{"event": "note", "time": 1}'.encode("utf-16-le"),
        b'{"event": "note", "time": 1}}',
        b'{"event": "note", "time": 1} {"event": "note", "time": 2}',
        b'{"event": "note"}',
        b'"event time"',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_a_line_is_read_as_json_reads_it(line):
    try:
        expected = json.loads(line)
    except (ValueError, RecursionError):
        expected = None
    is_event = isinstance(expected, dict) and "event" in expected and "time" in expected
    assert repr(events_in(line + b"\n")) == repr([expected] if is_event else [])
