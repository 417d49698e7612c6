"""What the processes of a machine make once and share: who makes it, with how many threads, and the disk."""

from __future__ import annotations

import errno
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trainables.interface import CacheEntry

__all__ = [
    "DATASETS",
    "FRAMES",
    "PROGRESS_EVERY_S",
    "cache_entries",
    "exclusive",
    "is_disk_full",
    "missing_space",
    "note_owner",
    "repeating",
    "run_parallel",
]

DATASETS = "datasets"
"""Folder of the cache for datasets that were fetched or made."""

FRAMES = "frames"
"""Folder of the cache for decoded frames."""

OWNER = ".json"
"""Suffix of the file beside decoded frames that names their dataset."""

PROGRESS_EVERY_S = 2.0
# Left free on the disk besides what is made: checkpoints are written there too, more often than not.
SPARE_B = 200 * 1000**2


@contextmanager
def exclusive(lock_file: Path, waiting: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold a lock, waiting for as long as another process has it.

    The lock is the operating system's: it goes when its owner dies.

    Args:
        lock_file: The file to lock; its folder must exist.
        waiting: The message that is repeated every few seconds while another process holds it.
        tell: Whom to tell.
    """
    lock = FileLock(lock_file, is_singleton=False)
    while True:
        try:
            lock.acquire(timeout=PROGRESS_EVERY_S, poll_interval=0.1)
            break
        except Timeout:
            tell(waiting)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def repeating(text: str, tell: Callable[[str], None], every_s: float = PROGRESS_EVERY_S) -> Iterator[None]:
    """Tell something now and every few seconds, while a library works that says nothing itself."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(every_s):
            tell(text)

    tell(text)
    thread = threading.Thread(target=go_on, daemon=True, name="told-again")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run_parallel(
    tasks: Sequence[Callable[[], None]], threads: int, stop: threading.Event, look: Callable[[], None]
) -> None:
    """Run tasks side by side. The first error is raised, and it or an interruption stops the others.

    Args:
        tasks: What is to be done; each looks at ``stop`` often, and returns when it is set.
        threads: How many run at a time.
        stop: Set where the others are to stop.
        look: Called about twice a second meanwhile.
    """
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="cache") as pool:
        jobs = [pool.submit(task) for task in tasks]
        try:
            while True:
                done, waiting = wait(jobs, timeout=PROGRESS_EVERY_S / 4, return_when=FIRST_EXCEPTION)
                look()
                if not waiting or any(job.exception() is not None for job in done):
                    break
            for job in jobs:
                if job.done():
                    job.result()
        finally:
            stop.set()
            for job in jobs:
                job.cancel()


def missing_space(folder: Path, needed_b: int) -> int | None:
    """The bytes that are free in ``folder`` if ``needed_b`` do not fit; None if they do."""
    free_b = shutil.disk_usage(folder).free
    return free_b if needed_b + SPARE_B > free_b else None


def is_disk_full(error: OSError) -> bool:
    """Whether writing failed because a disk or a quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def note_owner(path: Path, names: Sequence[str]) -> None:
    """Record beside a file of decoded frames which datasets it belongs to."""
    path.with_suffix(OWNER).write_text(json.dumps({"datasets": list(names)}))


def cache_entries(cache: Path) -> list[CacheEntry]:
    """List the datasets and the decoded frames in a cache folder."""
    folders = sorted(path for path in (cache / DATASETS).glob("*") if path.is_dir())
    entries = [CacheEntry(_dataset_name(folder, cache), "files", (folder,)) for folder in folders]
    for path in sorted((cache / FRAMES).glob("*.npy")):
        owner = path.with_suffix(OWNER)
        paths = (path, owner) if owner.exists() else (path,)
        entries.append(CacheEntry(_owner(owner, cache), f"frames of {_without_digest(path.stem)}", paths))
    unfinished = sorted((cache / FRAMES).glob("*.building-*"))
    entries += [
        CacheEntry("", f"unfinished frames of {_without_digest(one.stem)}", (one,)) for one in unfinished
    ]
    return entries


def _owner(note: Path, cache: Path) -> str:
    """The datasets that a note names; empty if there is none, as beside files of earlier versions."""
    try:
        names = json.loads(note.read_text())["datasets"]
        return ", ".join(
            _dataset_name(Path(name), cache) if Path(name).is_absolute() else name for name in names
        )
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _dataset_name(folder: Path, cache: Path) -> str:
    """The name of a dataset: without its digest if it is in the cache, else its folder."""
    return _without_digest(folder.name) if folder.parent == cache / DATASETS else str(folder)


def _without_digest(name: str) -> str:
    return re.sub(r"-[0-9a-f]{12,}$", "", name)
