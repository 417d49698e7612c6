"""The command `cache`: what this machine keeps of datasets, and how to delete it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import Json, open_console
from sweeper.errors import UserError
from sweeper.machines.machine import cache_folder, files_in_use
from sweeper.terminal.tables import Column, fitted_table
from sweeper.text import describe_size
from trainables import registry
from trainables.interface import CacheEntry, CachesData

__all__ = ["cache"]

UNKNOWN = "(unknown)"


def cache(
    dataset: Annotated[
        str | None,
        typer.Argument(metavar="DATASET", help="Only this dataset: its folder, or the end of its name."),
    ] = None,
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete it. It is made again when it is needed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the decoded frames and datasets in the cache of this machine, or delete them."""
    folder = cache_folder()
    entries = _entries(folder, dataset)
    if clear:
        _refuse_used(folder, entries)
    sizes = [sum(map(_size_b, entry.paths)) for entry in entries]
    if clear:
        for path in (path for entry in entries for path in entry.paths):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if as_json:
        plain = [
            {
                "dataset": entry.dataset,
                "what": entry.what,
                "bytes": size,
                "paths": list(map(str, entry.paths)),
            }
            for entry, size in zip(entries, sizes, strict=True)
        ]
        typer.echo(json.dumps({"folder": str(folder), "deleted": clear, "entries": plain}, indent=2))
        return
    _print(folder, entries, sizes, deleted=clear)


def _entries(folder: Path, dataset: str | None) -> list[CacheEntry]:
    """What is in the cache, of all trainables.

    Raises:
        UserError: If nothing in it belongs to ``dataset``.
    """
    trainables = (registry.load(name) for name in registry.names())
    listed = [entry for one in trainables if isinstance(one, CachesData) for entry in one.cached(folder)]
    # Trainables of the same kind of data share a cache, and each lists it.
    found = list(dict.fromkeys(listed))
    found.sort(key=lambda entry: (entry.dataset, entry.what))
    if dataset is None:
        return found
    chosen = [entry for entry in found if _is_named(entry.dataset or UNKNOWN, dataset)]
    if not chosen:
        known = ", ".join(dict.fromkeys(entry.dataset or UNKNOWN for entry in found)) or "none"
        raise UserError(f"{dataset!r} is not in the cache {folder}. Datasets there: {known}.")
    return chosen


def _is_named(owners: str, dataset: str) -> bool:
    """Whether a dataset, as the user names it, is one of these."""
    wanted = {dataset.rstrip("/"), str(Path(dataset).expanduser().absolute())}
    return any(owner in wanted or owner.endswith(f"/{dataset.rstrip('/')}") for owner in owners.split(", "))


def _refuse_used(folder: Path, entries: Sequence[CacheEntry]) -> None:
    """Raise an error if a process reads or writes what is to be deleted."""
    used = files_in_use(folder)
    names = [
        f"{entry.what} ({entry.dataset or UNKNOWN})"
        for entry in entries
        if any(file.is_relative_to(path.resolve()) for file in used for path in entry.paths)
    ]
    if names:
        raise UserError(
            f"In use by a running process: {', '.join(names)}. Nothing was deleted. Stop the sweep "
            "first (`sweeper status` shows which run), or name another dataset."
        )


def _size_b(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _print(folder: Path, entries: Sequence[CacheEntry], sizes: Sequence[int], *, deleted: bool) -> None:
    console = open_console()
    if entries:
        columns = [
            Column("size"),
            Column("dataset", "left", wraps=True),
            Column("content", "left", wraps=True),
        ]
        rows = [
            [describe_size(size / 1e9), entry.dataset or UNKNOWN, entry.what]
            for entry, size in zip(entries, sizes, strict=True)
        ]
        width = console.width if console.is_terminal else None
        console.print(fitted_table(columns, rows, width))
        console.print()
    total = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    words = f"{total}, {describe_size(sum(sizes) / 1e9)}"
    if deleted:
        console.print(f"Deleted from {folder}: {words}.", markup=False, soft_wrap=True)
        return
    console.print(f"{folder}: {words}", markup=False, soft_wrap=True)
    if entries:
        console.print(
            "`sweeper cache --clear` deletes everything, `sweeper cache DATASET --clear` one dataset. It is "
            "made again when it is needed. Set SWEEPER_CACHE to use another folder.",
            markup=False,
            soft_wrap=True,
        )
