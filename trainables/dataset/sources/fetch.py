"""Fetch a dataset from an object store, once per machine: the first process fetches, the others wait.

A dataset lies in a folder of the cache that is named after its address and its listing (names, sizes,
checksums or times). One that has changed has another listing, and so another folder: old and new are never
mixed. Files are fetched beside and the folder is renamed when it is whole; what a process that died had
fetched is not fetched again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from trainables.dataset.errors import DatasetError, DiskFullError, dataset_error
from trainables.dataset.shared_cache import (
    DATASETS,
    PROGRESS_EVERY_S,
    exclusive,
    is_disk_full,
    missing_space,
    run_parallel,
)
from trainables.dataset.sources.object_store import FIELD, Store, StoredFile
from trainables.files import put_in_place
from trainables.interface import Fault, silent

__all__ = ["fetch_dataset"]

# Part of every folder's name: count it up when the same listing would be stored differently.
LAYOUT = 1
THREADS = 8
"""Files that are fetched at a time; stores answer many at once, and each is slow by itself."""
LISTINGS = 3
"""How often a dataset may change while it is fetched."""
PARTS = ".parts"
"""Folder of the files that are not whole yet; no file of a dataset lies there."""


def fetch_dataset(address: str, cache: Path, progress: Callable[[str], None] = silent) -> Path:
    """Fetch a dataset, or find what was fetched of it as it is now.

    Args:
        address: Folder of a store, such as ``s3://bucket/folder``, without a login.
        cache: Folder that every process of this machine shares.
        progress: Told every few seconds how far it is.

    Returns:
        The dataset's folder.

    Raises:
        DatasetError: If the store cannot be asked, has no dataset there, or it changes all the time.
        DiskFullError: If the cache's disk has not enough room.
    """
    store = Store(address)
    files = store.files()
    place = cache / DATASETS
    try:
        place.mkdir(parents=True, exist_ok=True)
        for _ in range(LISTINGS):
            root = place / _folder_name(address, files)
            if not _lacking(root, files):
                return root
            waiting = f"{address}: waiting for another process that fetches it"
            with exclusive(root.with_name(f".{root.name}.lock"), waiting, progress):
                found = _Fetching(store, files, progress).fetch(root)
            if found is files:
                return root
            files = found
    except OSError as error:
        problem = f"cannot be written: {error.strerror or error}."
        raise dataset_error(str(place), problem, "Use another cache folder.") from error
    problem = f"{address} changed {LISTINGS} times while it was fetched."
    raise dataset_error(FIELD, problem, "Wait until it is written.")


def _folder_name(address: str, files: Sequence[StoredFile]) -> str:
    address = address.rstrip("/")
    key = json.dumps([LAYOUT, address, [[file.name, file.size_b, file.stamp] for file in files]])
    plain = re.sub(r"[^\w.-]", "_", address.rpartition("/")[2])[-60:]
    return f"{plain}-{hashlib.sha256(key.encode()).hexdigest()[:24]}"


def _lacking(folder: Path, files: Sequence[StoredFile]) -> list[StoredFile]:
    """The files that are not in the folder with the size that they should have."""
    return [file for file in files if _size_b(folder / file.name) != file.size_b]


def _size_b(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


class _Fetching:
    """Fetches a dataset into a folder. The caller holds its lock."""

    def __init__(self, store: Store, files: tuple[StoredFile, ...], tell: Callable[[str], None]) -> None:
        self._store = store
        self._files = files
        self._tell = tell
        self._total_b = 0
        self._done_b = 0
        self._told_b = 0
        self._told_s = time.monotonic()
        self._counting = threading.Lock()
        self._stop = threading.Event()

    def fetch(self, root: Path) -> tuple[StoredFile, ...]:
        """Make ``root`` whole.

        Returns:
            The listing that holds now; if it is another, the dataset has changed and there is no ``root``.
        """
        if not _lacking(root, self._files):
            return self._files
        folder = root.with_name(f".{root.name}.fetching")
        if root.is_dir():
            # Files were taken out of it from outside: what is left is taken over.
            shutil.rmtree(folder, ignore_errors=True)
            root.rename(folder)
        folder.mkdir(exist_ok=True)
        lacking = _lacking(folder, self._files)
        self._total_b = sum(file.size_b for file in lacking)
        self._check_disk(folder)
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        (folder / PARTS).mkdir()
        self._tell(f"{self._store.address}: fetching {_gigabytes(self._total_b)} in {len(lacking):,} files")
        try:
            # The largest first: none of them is left alone at the end.
            lacking.sort(key=lambda file: -file.size_b)
            tasks = [partial(self._fetch_file, file, number, folder) for number, file in enumerate(lacking)]
            run_parallel(tasks, THREADS, self._stop, self._tell_progress)
        except _ChangedError:
            pass
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise self._disk_full(folder, f"writing it failed ({error.strerror})") from error
        finally:
            shutil.rmtree(folder / PARTS, ignore_errors=True)
        return self._settle(folder, root)

    def _settle(self, folder: Path, root: Path) -> tuple[StoredFile, ...]:
        now = self._store.files()
        if now != self._files:
            shutil.rmtree(folder, ignore_errors=True)
            return now
        short = _lacking(folder, self._files)
        if short:
            problem = f"{self._store.address}: {short[0].name} has not the size that its listing says."
            raise dataset_error(FIELD, problem, "Write it again.")
        put_in_place(folder, root)
        self._tell(f"{self._store.address}: fetched")
        return self._files

    def _fetch_file(self, file: StoredFile, number: int, folder: Path) -> None:
        part, left_b = folder / PARTS / str(number), file.size_b
        with part.open("wb") as written:
            try:
                for piece in self._store.read(file):
                    left_b -= len(piece)
                    if self._stop.is_set():
                        return
                    if left_b < 0:
                        break
                    written.write(piece)
                    with self._counting:
                        self._done_b += len(piece)
            except FileNotFoundError as error:
                raise _ChangedError from error
        if left_b:
            raise _ChangedError
        whole = folder / file.name
        whole.parent.mkdir(parents=True, exist_ok=True)
        part.replace(whole)

    def _check_disk(self, folder: Path) -> None:
        free_b = missing_space(folder, self._total_b)
        if free_b is not None:
            raise self._disk_full(folder, f"only {_gigabytes(free_b)} are free")

    def _disk_full(self, folder: Path, detail: str) -> DiskFullError:
        problem = f"{self._store.address} takes {_gigabytes(self._total_b)}, and {detail}."
        return DiskFullError([Fault(str(folder.parent), problem, "Make room, or use another cache folder.")])

    def _tell_progress(self) -> None:
        # Only if there was progress: a fetch that reported without it would never be known to hang.
        if self._done_b > self._told_b and time.monotonic() - self._told_s >= PROGRESS_EVERY_S:
            self._told_s, self._told_b = time.monotonic(), self._done_b
            done, total = _gigabytes(self._done_b), _gigabytes(self._total_b)
            self._tell(f"{self._store.address}: {done} of {total}")


class _ChangedError(DatasetError):
    """A file is not what the listing said."""

    def __init__(self) -> None:
        super().__init__([])


def _gigabytes(size_b: int) -> str:
    return f"{size_b / 1e9:,.2f} GB" if size_b >= 10**7 else f"{size_b / 1e6:,.2f} MB"
