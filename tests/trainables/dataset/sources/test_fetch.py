"""Datasets in object stores: fetched once per machine, whole or not at all, old and new never mixed.

The file system behind ``file://`` is a real one, and what it lists is a store's listing; ``memory://`` holds
what no disk would. Nothing here needs a package of a store, or a network.
"""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from small_sets import PICTURE

from trainables.dataset import shared_cache as cached
from trainables.dataset.errors import DatasetError, DiskFullError
from trainables.dataset.open import open_dataset
from trainables.dataset.sources import fetch
from trainables.dataset.sources.fetch import fetch_dataset
from trainables.diffusion_policy.trainable import TRAINABLE

OPEN = """
import os, sys, pathlib
from trainables.dataset.open import open_dataset
from trainables.dataset.sources.object_store import Store
{before}
dataset = open_dataset(sys.argv[1], cache=pathlib.Path(sys.argv[2]), progress=print)
print(dataset.fingerprint, dataset.root)
"""


def start(address, cache, before=""):
    return subprocess.Popen(
        [sys.executable, "-c", OPEN.format(before=before), address, str(cache)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def root(make_dataset):
    return make_dataset(cameras={"observation.image": PICTURE}, episodes_per_file=1)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def memory():
    """A store in memory, empty before and after."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def message(address, cache, **options):
    with pytest.raises(DatasetError) as caught:
        fetch_dataset(address, cache, **options)
    assert [fault.where for fault in caught.value.faults] == ["dataset.root"]
    return str(caught.value)


@pytest.mark.slow
def test_a_dataset_of_a_store_is_the_dataset(root, cache):
    (root / "README.md").write_text("of no use to a policy")
    (root / "old").mkdir()
    (root / "old" / "weights.bin").write_bytes(bytes(1000))
    told: list[str] = []
    found = open_dataset(f"file://{root}", cache=cache, progress=told.append)
    local = open_dataset(root)

    assert found.root.is_relative_to(cache)
    assert found.fingerprint == local.fingerprint
    assert [source.name for source in found.sources] == [f"file://{root}"]
    for name, values in local.window(9, 2, 8).items():
        np.testing.assert_array_equal(found.window(9, 2, 8)[name], values)
    wanted = {name: content for name, content in files(root).items() if "/" in name and "old" not in name}
    assert len(wanted) >= 4
    assert files(found.root) == wanted
    assert "fetching" in told[0]
    assert told[-1] == f"file://{root}: fetched"

    told.clear()
    assert open_dataset(f"file://{root}/", cache=cache, progress=told.append).root == found.root
    assert told == []


@pytest.mark.slow
def test_processes_that_ask_at_once_fetch_once(root, cache):
    # All have started before one may ask, and each file takes a while.
    together = """
import time
pathlib.Path(sys.argv[2], str(os.getpid())).touch()
while len(list(pathlib.Path(sys.argv[2]).glob("[0-9]*"))) < 3:
    time.sleep(0.01)
read = Store.read
def slowly(store, file):
    time.sleep(0.1)
    return read(store, file)
Store.read = slowly
"""
    cache.mkdir()
    asking = [start(f"file://{root}", cache, together) for _ in range(3)]
    told = []
    for process in asking:
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        told.append(out)
    assert sum(": fetching " in out for out in told) == 1
    assert len({out.splitlines()[-1] for out in told}) == 1
    assert len([path for path in (cache / "datasets").iterdir() if path.is_dir()]) == 1


@pytest.mark.slow
def test_what_a_dead_process_had_fetched_is_not_fetched_again(root, cache):
    # It ends without any cleaning up, as when it is killed, with its third file; one thread, for one order.
    dying = start(
        f"file://{root}",
        cache,
        before="""
from trainables.dataset.sources import fetch
fetch.THREADS = 1
read, left = Store.read, [2]
def two(store, file):
    left[0] -= 1
    for piece in read(store, file):
        yield piece
        if left[0] < 0:
            sys.stdout.flush()
            os._exit(9)
Store.read = two
""",
    )
    out, err = dying.communicate(timeout=400)
    assert dying.returncode == 9, err
    count = len(files(root))
    assert f"in {count} files" in out
    assert not [path for path in (cache / "datasets").iterdir() if path.name.startswith("set-")]

    told: list[str] = []
    found = fetch_dataset(f"file://{root}", cache, told.append)
    assert f"in {count - 2} files" in told[0]
    assert files(found) == files(root)
    assert [path for path in (cache / "datasets").iterdir() if path.is_dir()] == [found]


@pytest.mark.slow
def test_an_interruption_leaves_what_is_needed_to_go_on(root, cache, monkeypatch):
    monkeypatch.setattr(fetch, "PROGRESS_EVERY_S", 0)

    def interrupt(text):
        if " of " in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_dataset(f"file://{root}", cache, interrupt)
    assert not list(cache.rglob(".parts"))
    assert files(fetch_dataset(f"file://{root}", cache)) == files(root)


def test_a_dataset_that_has_changed_is_fetched_anew_beside_the_old(root, cache):
    before = files(root)
    old = fetch_dataset(f"file://{root}", cache)
    info = root / "meta" / "info.json"
    info.write_bytes(info.read_bytes().replace(b"10", b"20"))  # as long as before
    os.utime(info, ns=(0, 0))
    new = fetch_dataset(f"file://{root}", cache)
    assert new != old
    assert (files(old), files(new)) == (before, files(root))
    assert files(new) != before


def test_a_dataset_that_changes_while_it_is_fetched_is_the_new_one(root, cache):
    info = root / "meta" / "info.json"

    def change(text):
        if ": fetching " in text and info.stat().st_mtime_ns != 0:
            info.write_bytes(info.read_bytes() + b"\n")
            os.utime(info, ns=(0, 0))

    found = fetch_dataset(f"file://{root}", cache, change)
    assert files(found) == files(root)
    assert [path for path in (cache / "datasets").iterdir() if path.is_dir()] == [found]


def test_a_dataset_that_never_stays_the_same_is_refused(root, cache):
    info = root / "meta" / "info.json"

    def change(text):
        if ": fetching " in text:
            info.write_bytes(info.read_bytes() + b"\n")

    assert "changed 3 times while it was fetched" in message(f"file://{root}", cache, progress=change)
    assert not [path for path in (cache / "datasets").iterdir() if path.is_dir()]


def test_what_was_taken_out_of_the_cache_is_fetched_again(root, cache):
    found = fetch_dataset(f"file://{root}", cache)
    (found / "meta" / "info.json").unlink()
    video = next((found / "videos").rglob("*.mp4"))
    video.write_bytes(video.read_bytes()[:100])
    told: list[str] = []
    assert fetch_dataset(f"file://{root}", cache, told.append) == found
    assert "in 2 files" in told[0]
    assert files(found) == files(root)


def test_too_small_a_disk_is_an_error_before_anything_is_fetched(root, cache, monkeypatch):
    monkeypatch.setattr(cached, "SPARE_B", 10**18)
    with pytest.raises(DiskFullError, match=r"file://.*set takes .* MB, and only .* GB are free") as error:
        fetch_dataset(f"file://{root}", cache)
    assert error.value.reason == "out_of_disk"
    assert not list(cache.rglob("info.json"))


def test_a_cache_that_cannot_be_written_is_named(root, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match=r"file/datasets: cannot be written: Not a directory"):
        fetch_dataset(f"file://{root}", tmp_path / "file")


def test_without_a_folder_to_fetch_to_nothing_is_fetched(root):
    with pytest.raises(DatasetError, match="Pass cache="):
        open_dataset(f"file://{root}")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("memory://bucket/set", "does not exist, or is empty. Check the bucket and the folder."),
        ("memory://bucket", "has no meta/info.json; it has arms, read.me."),
        ("s4://bucket/set", "unknown protocol 's4'. Use s3://, gs://, az://"),
        ("file://data/set", "is not a path from the root. Write the path from the root: file:///"),
        (
            "https://example.org/set",
            "is a web page, and a web page does not list files. Name a dataset on the hub as",
        ),
        ("s3://", "does not name a folder. Write s3://bucket/folder."),
        ("simplecache::s3://bucket/set", "several file systems are chained"),
        ("s3://bucket/set?versionId=8", "has a part after '?' or '#'"),
        ("abfs://container@account.dfs.core.windows.net/set", "Write az://container/folder, and set AZURE_"),
    ],
)
def test_an_illegal_address_is_refused_with_the_reason(memory, cache, address, said):
    memory.pipe({"/bucket/read.me": b"", "/bucket/arms/meta/info.json": b"{}"})
    assert said in message(address, cache)
    assert not list(cache.rglob("*.json"))


@pytest.mark.parametrize(
    "login", ["AKIA12:s3cr3t-of-mine@bucket", "AKIA12:s3cr3t/of-mine@bucket", "s3cr3t-of-mine@bucket"]
)
def test_a_login_in_an_address_is_refused_and_not_repeated(cache, login):
    said = message(f"s3://{login}/set", cache)
    assert "contains credentials" in said
    assert "mine" not in said
    assert "s3cr3t" not in said
    (fault,) = TRAINABLE.faults({"dataset.root": ["/somewhere", f"s3://{login}/set"]})
    assert fault.where == "dataset.root"
    assert "s3cr3t" not in str(fault)


@pytest.mark.parametrize("protocol", ["s3", "gs", "az"])
def test_a_package_that_is_missing_is_named(cache, monkeypatch, protocol):
    package = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}[protocol]
    monkeypatch.setitem(sys.modules, package, None)
    # What was found in this process before is remembered there.
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, protocol, False)
    said = message(f"{protocol}://bucket/set", cache)
    assert f"needs the package {package}" in said
    assert f"pip install {package}; on a cluster: setup_node.sh --with {package}." in said
    (remark,) = TRAINABLE.remarks({"dataset.root": f"{protocol}://bucket/set"})
    assert f"pip install {package}" in remark


@pytest.mark.parametrize("name", ["data/../../x", "data/a\\..\\..\\x", "data/./x", "data/x\0y"])
def test_names_in_a_listing_cannot_leave_the_folder(memory, cache, tmp_path, name):
    memory.pipe({"/bucket/set/meta/info.json": b"{}"})
    memory.store[f"/bucket/set/{name}"] = memory.store["/bucket/set/meta/info.json"]
    with pytest.raises(DatasetError, match=r"leaves the dataset's folder|is not a valid name of a file"):
        fetch_dataset("memory://bucket/set", cache)
    assert {path.name for path in tmp_path.rglob("*")} <= {"cache", "datasets"}


def test_a_name_that_is_a_file_and_a_folder_is_refused(memory, cache, monkeypatch):
    memory.pipe({"/bucket/set/meta/info.json": b"{}", "/bucket/set/data/a": b"1"})
    memory.store["/bucket/set/data/a/b"] = memory.store["/bucket/set/data/a"]
    assert "'data/a' is there as two things" in message("memory://bucket/set", cache)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (PermissionError("Access Denied"), "was refused: Access Denied. Logins come from the environment"),
        (ValueError("Unable to locate credentials"), "was refused: Unable to locate credentials."),
        (TimeoutError("no answer\nand more"), "cannot be read: no answer. Check the network"),
    ],
)
def test_a_store_that_does_not_answer_is_an_error_in_our_words(memory, cache, monkeypatch, error, said):
    def fail(self, path, **options):
        raise error

    monkeypatch.setattr(type(memory), "find", fail)
    assert said in message("memory://bucket/set", cache)


@pytest.mark.slow
def test_stores_and_folders_make_one_dataset(make_dataset, cache):
    one, two = make_dataset("one", lengths=(5, 6)), make_dataset("two", lengths=(7,))
    found = open_dataset([f"file://{one}", two], cache=cache)
    assert found.fingerprint == open_dataset([one, two]).fingerprint
    assert [source.name for source in found.sources] == [f"file://{one}", str(two)]


@pytest.mark.slow
def test_the_record_of_a_run_has_the_address_and_the_fingerprint_of_the_content(make_dataset, cache):
    root = make_dataset(lengths=(40,) * 4)
    address = f"file://{root}"
    assert TRAINABLE.preflight({"dataset.root": address}, cache) == []
    described = TRAINABLE.describe({"dataset.root": address}, cache)
    assert described["dataset"] == address
    assert described["fingerprint"] == open_dataset(root).fingerprint
    shutil.rmtree(root)
    (fault,) = TRAINABLE.preflight({"dataset.root": address}, cache)
    assert "does not exist" in fault.problem


def test_an_address_under_repo_id_is_a_fault():
    (fault,) = TRAINABLE.faults({"dataset.repo_id": "s3://bucket/set"})
    assert str(fault) == "dataset.repo_id: is an address, not a name on the hub. Set it as dataset.root."


@pytest.mark.slow
def test_a_fetch_that_hangs_is_silent(root, cache, monkeypatch):
    monkeypatch.setattr(fetch, "PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(cached, "PROGRESS_EVERY_S", 0.02)
    go_on, told, read = threading.Event(), [], fetch.Store.read

    def stalling(store, file):
        assert go_on.wait(400)
        yield from read(store, file)

    monkeypatch.setattr(fetch.Store, "read", stalling)
    thread = threading.Thread(target=fetch_dataset, args=(f"file://{root}", cache, told.append))
    thread.start()
    until = time.monotonic() + 200
    while not told and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.5)  # a hundred looks
    quiet = list(told)
    go_on.set()
    thread.join()
    assert len(quiet) == 1
    assert "fetching" in quiet[0]
    assert told[-1].endswith("fetched")


def test_a_folder_that_cannot_be_listed_is_not_left_out(root, cache, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    listed = LocalFileSystem.ls

    def failing(system, path, detail=False, **options):
        if str(path).rstrip("/").endswith("data/chunk-000"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return listed(system, path, detail=detail, **options)

    monkeypatch.setattr(LocalFileSystem, "ls", failing)
    assert "Input/output error" in message(f"file://{root}", cache)


def test_a_link_that_leads_nowhere_is_no_empty_file(root, cache):
    (root / "meta" / "notes.json").symlink_to(root / "gone")
    assert "meta/notes.json is a link, and leads to no file" in message(f"file://{root}", cache)
