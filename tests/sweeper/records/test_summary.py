"""A summary is the same with an index and without, whatever happened to the index and the journal."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sweeps import ERROR, LR, SCHEDULE, SUCCESS, begin, fill, sweep

from sweeper.errors import SweepDamagedError, SweepNotFoundError
from sweeper.layout import INDEX, JOURNAL, UNFINISHED
from sweeper.records import summary, sweep_state
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.records.summary import list_sweeps, read_summary
from sweeper.records.sweep_state import SweepState, events_after, read_sweep, update_sweep
from sweeper.records.trial_state import TrialState


@pytest.fixture(autouse=True)
def _always_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(summary, "SPARE_BYTES", 0)


def plain(state: SweepState) -> str:
    """A state as a text: equal for equal states, although NaN is not equal to itself."""
    fields = dataclasses.asdict(state)
    del fields["_tracked"]  # follows from the rest
    return json.dumps(
        fields,
        default=lambda value: str(value) if isinstance(value, Path) else sorted(value),
        sort_keys=True,
    )


def without_index(folder: Path) -> SweepState:
    state = SweepState(folder, keeps_series=False)
    update_sweep(state)
    return state


def play(folder: Path, trials: int = 3, first: int = 0) -> Path:
    """Write some trials into the journal of a folder."""
    with Journal(folder / JOURNAL) as journal:
        if not first:
            goals = {SUCCESS: "maximize", ERROR: "minimize"}
            begin(journal, sweep(folder, LR, SCHEDULE, objectives=goals))
        for number in range(first, first + trials):
            values = {"optimizer.lr": 1e-4}
            journal.append(EventKind.TRIAL_START, trial=number, values=values, config=values)
            for step in (10, 20):
                metrics = {SUCCESS: 0.0, ERROR: number / step, "train/loss": float("nan")}
                checkpoint = folder / "trials" / str(number) / "checkpoints" / str(step)
                journal.append(
                    EventKind.REPORT, trial=number, step=step, metrics=metrics, checkpoint=checkpoint
                )
            journal.append(EventKind.TRIAL_END, trial=number, status="completed", reason="", message="")
    return folder


def read_bytes(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """How many bytes of a journal are parsed for its summary, which is the same as without an index."""
    read: list[int] = []
    with monkeypatch.context() as patch:
        parse = sweep_state.events_in
        patch.setattr(sweep_state, "events_in", lambda lines: read.append(len(lines)) or parse(lines))
        found = read_summary(folder)
    assert plain(found) == plain(without_index(folder))
    return sum(read)


def test_only_what_was_added_since_is_read_again(tmp_path, monkeypatch):
    journal = play(tmp_path / "s") / JOURNAL
    whole = journal.stat().st_size
    assert read_bytes(monkeypatch, tmp_path / "s") == whole
    assert read_bytes(monkeypatch, tmp_path / "s") == 0
    play(tmp_path / "s", 2, first=3)
    assert read_bytes(monkeypatch, tmp_path / "s") == journal.stat().st_size - whole
    assert read_bytes(monkeypatch, tmp_path / "s") == 0


def test_a_summary_says_what_the_whole_journal_says_but_for_the_series(tmp_path):
    play(tmp_path / "s")
    for _ in range(2):
        found, whole = read_summary(tmp_path / "s"), read_sweep(tmp_path / "s")
        assert [trial.number for trial in found.ranking()] == [trial.number for trial in whole.ranking()]
        assert found.objectives == whole.objectives
        for trial in whole.trials.values():
            trial.series = {}
        assert plain(dataclasses.replace(whole, keeps_series=False)) == plain(found)


@pytest.mark.slow
def test_a_small_journal_has_no_index_and_a_small_addition_makes_no_new_one(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "WORTHWHILE_BYTES", 4000)
    play(tmp_path / "s", 1)
    read_summary(tmp_path / "s")
    assert not (tmp_path / "s" / INDEX).exists()
    play(tmp_path / "s", 20, first=1)
    read_summary(tmp_path / "s")
    before = (tmp_path / "s" / INDEX).read_bytes()
    play(tmp_path / "s", 1, first=21)
    assert plain(read_summary(tmp_path / "s")) == plain(without_index(tmp_path / "s"))
    assert (tmp_path / "s" / INDEX).read_bytes() == before


NUMBERS = st.one_of(
    st.floats(-10, 10), st.integers(-3, 3), st.sampled_from(["NaN", "Infinity", "-Infinity", 1e308])
)
METRICS = st.dictionaries(st.sampled_from([SUCCESS, ERROR, "train/loss"]), NUMBERS)
TRIALS = st.integers(0, 2)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any] | bytes:
    """An event that may follow the start of trials 0 to 2, or a line that a crash has cut short."""
    text = st.text(max_size=8)
    kind = draw(st.sampled_from([*EventKind, "report", "report", "report", "torn", "of_a_later_version"]))
    trial = draw(TRIALS)
    path = f"sweeps/small/trials/{trial}/checkpoints/{draw(st.integers(0, 3))}"
    match kind:
        case "torn":
            return draw(st.sampled_from([b'{"event": "report", "tri', b"", b"[1, 2]", b"\xff\xfe", b"{}"]))
        case "sweep_start":
            return {"event": kind}
        case "trial_start":
            config = draw(st.dictionaries(text, st.one_of(text, NUMBERS, st.lists(st.booleans()), st.none())))
            return {"event": kind, "trial": trial, "values": config, "config": config}
        case "report":
            more = draw(st.fixed_dictionaries({}, optional={"artifacts": st.just({"film": f"{path}.mp4"})}))
            more |= draw(st.fixed_dictionaries({}, optional={"checkpoint": st.just(path)}))
            step = draw(st.integers(0, 4))
            return {"event": kind, "trial": trial, "step": step, "metrics": draw(METRICS), **more}
        case "trial_retry":
            fields = {"reason": draw(st.sampled_from(["hang", "lost"])), "message": draw(text)}
            return {"event": kind, "trial": trial, **fields, "changes": draw(st.dictionaries(text, NUMBERS))}
        case "checkpoints_dropped":
            return {"event": kind, "trial": trial, "folders": [path]}
        case "trial_end":
            status = draw(st.sampled_from(["completed", "stopped_early", "failed", "interrupted"]))
            return {"event": kind, "trial": trial, "status": status, "reason": "", "message": draw(text)}
        case "trial_wait":
            return {"event": kind, "trial": trial, "needs": draw(st.sampled_from(["", "1 GPU"]))}
        case "trial_placed":
            return {"event": kind, "trial": trial, "node_types": draw(st.lists(text, max_size=2))}
        case "steer":
            action = draw(st.sampled_from(["pause", "paused", "resume", "stop", "cancel", "budget"]))
            budget = {"trials": draw(st.integers(1, 9)), "hours": None, "gpu_hours": 2.5, "max_failed": None}
            return {"event": kind, "action": action, "text": "", "budget": budget}
        case "sweep_end":
            return {"event": kind, "status": draw(st.sampled_from(["done", "failed", "interrupted"]))}
        case "tuned":
            values = {"setting": draw(st.dictionaries(text, NUMBERS)), "tried": [{"value": draw(NUMBERS)}]}
            return {
                "event": kind,
                "trial": trial,
                "metrics": draw(METRICS),
                "untuned": draw(METRICS),
                **values,
            }
        case "confirm_start":
            return {"event": kind, "finalists": [{"trial": trial}], "options": {"episodes": 9}}
        case "confirmed":
            one = {"trial": trial, "setting": {}, "metrics": draw(METRICS), "p_best": 0.5, "state": "left"}
            said = {"verdict": draw(text), "complete": draw(st.booleans())}
            return {"event": kind, "finalists": [one], "winner": trial, **said}
        case "judged":
            one = {"trial": trial, "letter": "A", "metrics": draw(METRICS), "tags": {"slow": 2}}
            said = {"verdict": draw(text), "complete": draw(st.booleans()), "options": {"seed": 3}}
            return {"event": kind, "finalists": [one], "winner": trial, **said}
        case _:
            return {"event": kind, "text": draw(text)}


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.tuples(events(), st.integers(0, 99)), max_size=12), min_size=1, max_size=5))
def test_the_index_changes_no_summary(tmp_path_factory, pieces):
    folder = tmp_path_factory.mktemp("sweeps") / "small"
    folder.mkdir()
    spec = sweep(Path("sweeps/small"), LR, SCHEDULE, objectives={SUCCESS: "maximize", ERROR: "minimize"})
    start = {
        "event": "sweep_start",
        "sweep": "small",
        "sweep_id": "1",
        "spec": spec.to_dict(),
        "info": {"steps": 4},
        "driver": {"host": "elsewhere", "pid": 1, "started": 5.0},
    }
    trials = [{"event": "trial_start", "trial": n, "values": {}, "config": {"é": n}} for n in range(3)]
    pieces = [[(start, 1), *((event, 1) for event in trials)], *pieces]
    now = 1000.0
    for piece in pieces:
        with (folder / JOURNAL).open("ab") as file:
            for event, pause in piece:
                now += pause
                if isinstance(event, bytes):
                    file.write(event + b"\n")
                    continue
                event = start if event["event"] == "sweep_start" else event
                event = {"message": "", **event} if event["event"] == "sweep_end" else event
                line = json.dumps({**event, "time": now}, ensure_ascii=bool(pause % 2))
                file.write(line.encode(errors="surrogatepass") + b"\n")
            file.write(b'{"event": "unfini')  # the driver is about to write it
        found = read_summary(folder)
        assert plain(found) == plain(without_index(folder))
        assert plain(read_summary(folder)) == plain(found)
        assert (folder / INDEX).exists()
        with (folder / JOURNAL).open("ab") as file:
            file.write(b'shed"}\n')


def edited(journal: Path) -> None:
    content = journal.read_bytes()
    at = content.index(b'"rollout/success_rate": 0.0')
    journal.write_bytes(content[:at] + b'"rollout/success_rate": 0.5' + content[at + 27 :])


def replaced(journal: Path) -> None:
    shutil.copy(play(journal.parent.parent / "other", 9) / JOURNAL, journal)


def truncated(journal: Path) -> None:
    os.truncate(journal, journal.read_bytes().rindex(b'{"event": "report"'))


def truncated_and_continued(journal: Path) -> None:
    truncated(journal)
    play(journal.parent, 5, first=3)


@pytest.mark.slow
@pytest.mark.parametrize("change", [edited, replaced, truncated, truncated_and_continued])
def test_an_index_is_not_trusted_if_the_journal_has_changed(tmp_path, monkeypatch, change):
    journal = play(tmp_path / "s") / JOURNAL
    before = plain(read_summary(tmp_path / "s"))
    change(journal)
    assert read_bytes(monkeypatch, tmp_path / "s") == journal.stat().st_size
    assert plain(read_summary(tmp_path / "s")) != before
    assert read_bytes(monkeypatch, tmp_path / "s") == 0, "the index was not replaced"


def test_the_index_of_a_folder_is_not_that_of_its_copy(tmp_path, monkeypatch):
    play(tmp_path / "s")
    read_summary(tmp_path / "s")
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    assert read_bytes(monkeypatch, tmp_path / "copy") > 0
    found = read_summary(tmp_path / "copy")
    assert found.name == "copy"
    assert found.trials[0].checkpoint == str(tmp_path / "copy" / "trials" / "0" / "checkpoints" / "20")


def rewritten(index: Path, change: Any) -> None:
    """Change an index so that its digest is right again."""
    head, *lines = (json.loads(line) for line in index.read_bytes().splitlines())
    change(head, lines)
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    head = {**head, "content": hashlib.sha256(content).hexdigest()}
    index.write_bytes(json.dumps(head).encode() + b"\n" + content)


STRANGE: dict[str, Any] = {
    "another version": lambda head, lines: head.update(version=0),
    "no version": lambda head, lines: head.pop("version"),
    "an offset of text": lambda head, lines: head.update(offset="1"),
    "another offset": lambda head, lines: lines[0].update(offset=1),
    "no sweep": lambda head, lines: lines.clear(),
    "a list": lambda head, lines: lines.insert(0, []),
    "an unknown field": lambda head, lines: lines[1].update(new=1),
    "a missing field": lambda head, lines: lines[1].pop("step"),
    "a spec that is not one": lambda head, lines: lines[0].update(spec={"name": "x"}),
    "a step of text": lambda head, lines: lines[1].update(step="10"),
    "a time beyond all": lambda head, lines: lines[1].update(started=1e300),
    "a path with a zero": lambda head, lines: lines[1].update(checkpoint="a\0b"),
    "an unknown status": lambda head, lines: lines[1].update(status="new"),
    "metrics of text": lambda head, lines: lines[1].update(metrics={"a": "b"}),
    "counts of text": lambda head, lines: lines[1].update(retries={"a": "b"}),
    "half a pair": lambda head, lines: lines[1].update(first=[1.0]),
    "an endless clock": lambda head, lines: lines[0].update(_ran_s=float("inf")),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", STRANGE)
def test_an_index_that_is_not_one_is_ignored_and_replaced(tmp_path, monkeypatch, what):
    journal = play(tmp_path / "s") / JOURNAL
    read_summary(tmp_path / "s")
    rewritten(tmp_path / "s" / INDEX, lambda head, lines: None)
    assert read_bytes(monkeypatch, tmp_path / "s") == 0
    rewritten(tmp_path / "s" / INDEX, STRANGE[what])
    assert read_bytes(monkeypatch, tmp_path / "s") == journal.stat().st_size
    assert read_bytes(monkeypatch, tmp_path / "s") == 0


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\n", b"{}\n", b"\xff\x00", b"[" * 100_000, b"null\n{}\n"])
def test_garbage_in_place_of_an_index_is_ignored_and_replaced(tmp_path, monkeypatch, content):
    journal = play(tmp_path / "s") / JOURNAL
    (tmp_path / "s" / INDEX).write_bytes(content)
    assert read_bytes(monkeypatch, tmp_path / "s") == journal.stat().st_size
    assert read_bytes(monkeypatch, tmp_path / "s") == 0


@pytest.mark.slow
def test_an_index_with_any_damaged_byte_changes_no_summary(tmp_path):
    index = play(tmp_path / "s", 1) / INDEX
    expected = plain(read_summary(tmp_path / "s"))
    whole = index.read_bytes()
    for at in range(0, len(whole), 3):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert plain(read_summary(tmp_path / "s")) == expected
        index.write_bytes(whole[:at])
        assert plain(read_summary(tmp_path / "s")) == expected


def test_a_damaged_journal_has_the_same_message_with_an_index_and_without(tmp_path):
    journal = play(tmp_path / "s") / JOURNAL
    read_summary(tmp_path / "s")
    with journal.open("ab") as file:
        file.write(b'torn\n{"event": "report", "time": 1, "trial": 99, "step": 1, "metrics": {}}\n')
    with pytest.raises(SweepDamagedError) as with_index:
        read_summary(tmp_path / "s")
    (tmp_path / "s" / INDEX).unlink()
    with pytest.raises(SweepDamagedError) as without:
        read_summary(tmp_path / "s")
    with pytest.raises(SweepDamagedError) as whole:
        read_sweep(tmp_path / "s")
    assert str(with_index.value) == str(without.value) == str(whole.value)
    assert f"line {len(journal.read_bytes().splitlines())}: report: trial 99 never started" in str(
        whole.value
    )
    assert not (tmp_path / "s" / INDEX).exists()
    assert [other.name for other in list_sweeps(tmp_path)[1]] == ["s"]


def test_a_folder_without_a_sweep_gets_no_index(tmp_path):
    (tmp_path / JOURNAL).write_text('{"event": "note", "time": 1, "text": "nothing started"}\n')
    with pytest.raises(SweepNotFoundError, match="not a sweep's folder"):
        read_summary(tmp_path)
    assert not (tmp_path / INDEX).exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_read():
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from sweeper.records import summary\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "summary.WORTHWHILE_BYTES = summary.SPARE_BYTES = 0\n"
        "print(len(summary.read_summary(Path(sys.argv[1])).trials))\n"
    )
    if os.getuid() != 0:
        program = program.replace("os.setgid(65534); os.setuid(65534)\n", "")
    root = Path(__file__).parents[3]
    # Not in pytest's own folder, which other users cannot enter.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "s"
        play(folder)
        folder.parent.chmod(0o755)
        folder.chmod(0o555)
        found = subprocess.run(
            [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, cwd=root
        )
        assert not (folder / INDEX).exists()
        folder.chmod(0o755)
    assert found.stdout == "3\n", found.stderr


def test_a_disk_without_much_room_gets_no_index(tmp_path, monkeypatch):
    play(tmp_path / "s")
    monkeypatch.setattr(summary, "SPARE_BYTES", shutil.disk_usage(tmp_path).total + 1)
    assert len(read_summary(tmp_path / "s").trials) == 3
    assert not (tmp_path / "s" / INDEX).exists()


def test_a_disk_that_becomes_full_leaves_nothing_of_an_index(small_disk):
    play(small_disk / "s")
    fill(small_disk)
    assert len(read_summary(small_disk / "s").trials) == 3
    assert {path.name for path in (small_disk / "s").iterdir()} == {JOURNAL}


def test_what_a_killed_reader_left_is_deleted_after_an_hour(tmp_path):
    play(tmp_path / "s")
    old, new = (tmp_path / "s" / f"{INDEX}.{name}{UNFINISHED}" for name in ("old", "new"))
    for path in (old, new):
        path.write_text("{")
    os.utime(old, (time.time() - 7200,) * 2)
    read_summary(tmp_path / "s")
    assert not old.exists()
    assert new.exists()


def test_an_index_can_be_read_by_those_who_can_read_the_journal(tmp_path):
    journal = play(tmp_path / "s") / JOURNAL
    for mode in (0o640, 0o604, 0o600):
        journal.chmod(mode)
        (tmp_path / "s" / INDEX).unlink(missing_ok=True)
        read_summary(tmp_path / "s")
        assert (tmp_path / "s" / INDEX).stat().st_mode & 0o777 == mode


@pytest.mark.slow
def test_readers_at_the_same_time_do_not_disturb_one_another_or_the_driver(tmp_path):
    play(tmp_path / "s")
    problems: list[BaseException] = []
    written = threading.Event()

    def read() -> None:
        try:
            last = 0
            while not written.is_set():
                found = read_summary(tmp_path / "s")
                assert len(found.trials) >= last
                last = len(found.trials)
                assert all(
                    trial.final[ERROR] == trial.number / 20
                    for trial in found.trials.values()
                    if trial.status == "completed"
                )
        except BaseException as problem:
            problems.append(problem)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for first in range(3, 43):
        play(tmp_path / "s", 1, first=first)
    written.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert plain(read_summary(tmp_path / "s")) == plain(without_index(tmp_path / "s"))
    assert {path.name for path in (tmp_path / "s").iterdir()} == {JOURNAL, INDEX}


def test_the_index_has_every_field_of_a_state(tmp_path):
    of_sweep = {field.name for field in dataclasses.fields(SweepState)}
    assert of_sweep - summary._SWEEP.keys() == {"folder", "trials", "keeps_series", "_tracked", "_census"}
    of_trial = {field.name for field in dataclasses.fields(TrialState)}
    assert of_trial - summary._TRIAL.keys() == {"series"}


def test_missing_events_are_counted_without_parsing_them(tmp_path, monkeypatch):
    journal = play(tmp_path / "s") / JOURNAL
    offsets = [0]
    for line in journal.read_bytes().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    found = read_summary(tmp_path / "s")
    with monkeypatch.context() as patch:
        patch.setattr("sweeper.records.sweep_state.events_in", lambda lines: pytest.fail("parsed"))
        assert [events_after(found, offset) for offset in offsets] == list(range(len(offsets) - 1, -1, -1))
    with journal.open("ab") as file:
        file.write(b'{"event": "note", "ti\n{"event": "note", "time": 1}\n{"event": "no')
    assert events_after(found, 0) == len(offsets)
    found = read_summary(tmp_path / "s")
    assert events_after(found, 0) == len(offsets)
    assert events_after(found, offsets[-1]) == 1
