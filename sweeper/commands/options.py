"""Arguments and options that several commands share, and where they print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "CLUSTER_OPTION",
    "Address",
    "ClusterFile",
    "Json",
    "Overrides",
    "SpaceFile",
    "Sweep",
    "SweepsFolder",
    "open_console",
]

SpaceFile = Annotated[
    str, typer.Argument(metavar="SPACE", help="A space file, or the name of one that comes with the package.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to it, e.g. budget.trials=8 parameters.optimizer.lr.max=3e-4 config.dataset.root=PATH.",
    ),
]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep, or the path of its folder.")]
SweepsFolder = Annotated[
    Path, typer.Option("--sweeps", envvar="SWEEPER_SWEEPS", help="The folder in which sweeps lie.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to run on, or http:// and its job server; without it RAY_ADDRESS, or a local Ray.",
        metavar="ADDRESS",
    ),
]

CLUSTER_OPTION = "--cluster"
ClusterFile = Annotated[
    Path | None,
    typer.Option(CLUSTER_OPTION, metavar="FILE", help="The file that `ray up` was given; reached over SSH."),
]


def open_console(stderr: bool = False) -> Console:
    """Open the console that a person reads."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)
