"""Arguments and options that several commands share, and their console."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

__all__ = [
    "CLUSTER_OPTION",
    "SWEEPS_VARIABLE",
    "Address",
    "ClusterFile",
    "Command",
    "Group",
    "Json",
    "Overrides",
    "Policy",
    "SpaceFile",
    "Sweep",
    "SweepsFolder",
    "WhichCheckpoint",
    "field_values",
    "open_console",
    "plain_name",
]

SpaceFile = Annotated[
    str,
    typer.Argument(metavar="SPACE", help="A space file, or the name of a built-in one, e.g. pusht_quick."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the space, e.g. budget.trials=8 parameters.optimizer.lr.max=3e-4 "
        "config.dataset.root=PATH.",
    ),
]
Sweep = Annotated[str, typer.Argument(metavar="SWEEP", help="Name of a sweep, or path of its folder.")]
SWEEPS_VARIABLE = "SWEEPER_SWEEPS"
Policy = Annotated[
    str,
    typer.Argument(
        metavar="SWEEP[:TRIAL]",
        help="A sweep (its best trial), a sweep and a trial number, or a checkpoint: a folder or a .ckpt "
        "file, also one of LeRobot, or a bundle.",
    ),
]
WhichCheckpoint = Annotated[
    Literal["last", "best"] | None,
    typer.Option(help="The trial's last checkpoint, which the ranking uses (default), or its best."),
]
SweepsFolder = Annotated[
    Path, typer.Option("--sweeps", envvar=SWEEPS_VARIABLE, help="Folder that contains the sweeps.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to run on, or the http:// address of its job server. Default: RAY_ADDRESS, "
        "else this machine.",
        metavar="ADDRESS",
    ),
]

CLUSTER_OPTION = "--cluster"
ClusterFile = Annotated[
    Path | None,
    typer.Option(
        CLUSTER_OPTION, metavar="FILE", help="The cluster file of `ray up`. The cluster is reached over SSH."
    ),
]


def field_values(example: str, default: str) -> Any:
    """The argument of a command that examines values of inference fields.

    Args:
        example: Fields with values, as they are typed.
        default: What is examined if none are given.
    """
    return typer.Argument(
        metavar="FIELD=A,B,C", help=f"Values of inference fields, e.g. {example}. Default: {default}."
    )


def plain_name(named: str) -> str:
    """The name of a folder for something that was named by a path, or with a colon."""
    last = named.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "policy"


def open_console(stderr: bool = False) -> Console:
    """Open the console for the user's output."""
    from sweeper.terminal.console import ShellConsole  # loads rich, which commands with --json do without

    return ShellConsole(stderr=stderr, highlight=False)


class Command(TyperCommand):
    """A command whose help shows flags without a value: ``--json``, not ``--json <bool>``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments that are left; an error about a missing sweep names `sweeper list`."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as wrong:
            # Only an argument that is missing has no message of its own.
            if not wrong.message and str(getattr(wrong.param, "metavar", "")).startswith("SWEEP"):
                wrong.message = "`sweeper list` shows all sweeps."
            raise

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with the option for help."""
        return _without_flag_values(super().get_params(ctx))


class Group(TyperGroup):
    """A group of commands whose help shows flags without a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, with the option for help."""
        return _without_flag_values(super().get_params(ctx))


def _without_flag_values(parameters: Iterable[Any]) -> list[Any]:
    """The parameters of a command, after the metavariable of each flag was set to nothing."""
    found = list(parameters)
    for parameter in found:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return found
