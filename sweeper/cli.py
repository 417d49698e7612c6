"""The command line: commands, and how an error ends them. What they do is imported when they run."""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sweeper import __version__
from sweeper.commands import checkpoints, data, doctor, jobs, on_cluster, results, steering, sweeps
from sweeper.commands.options import open_console

__all__ = ["app", "main"]

INTERRUPTED = 130


class _Commands(TyperGroup):
    """Commands that are listed where somebody names another one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that is meant."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands)
            hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
            ctx.fail(f"There is no command {args[0]!r}. {hint}Commands: {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="sweeper",
    cls=_Commands,
    help="Hyperparameter sweeps for Diffusion Policies on LeRobot datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # errors are printed by `main`
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    cluster_file: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="FILE",
            help="Run the command on the cluster that `ray up FILE` made, over SSH; also behind the command.",
        ),
    ] = None,
) -> None:
    """Hyperparameter sweeps for Diffusion Policies on LeRobot datasets."""


_PANELS: dict[str, dict[str, Callable[..., None]]] = {
    "Sweeps": {"check": sweeps.check, "launch": sweeps.launch, "demo": sweeps.demo},
    "While it runs": {
        "status": steering.status,
        "watch": steering.watch,
        "logs": steering.logs,
        "pause": steering.pause,
        "resume": steering.resume,
        "stop": steering.stop,
        "cancel": steering.cancel,
        "budget": steering.budget,
    },
    "Results": {
        "results": results.results,
        "list": results.list_sweeps,
        "sync": results.sync,
        "ui": results.ui,
    },
    "Checkpoints": {"export": checkpoints.export},
    "Machines": {"doctor": doctor.doctor, "jobs": jobs.jobs},
}
for _panel, _commands in _PANELS.items():
    for _name, _command in _commands.items():
        app.command(name=_name, rich_help_panel=_panel)(_command)
app.add_typer(data.app, name="data", rich_help_panel="Data")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Exit codes: 0 done, 1 the sweep failed, 2 the user's input is wrong, 130 interrupted.
    """
    _look_for_modules_here()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # `sweeper results NAME | head` is no mistake. Nothing may be flushed to the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        sys.exit(_explain(error))


def _look_for_modules_here() -> None:
    """Have a trainable of one's own found in the current folder, as `python -m` would; it hides no other."""
    with contextlib.suppress(OSError):  # the folder is gone
        here = str(Path.cwd())
        if not {"", here} & set(sys.path):
            sys.path.append(here)


def _run(arguments: list[str]) -> None:
    """Run a command here, or on the cluster that ``--cluster`` names."""
    file, left = on_cluster.split_cluster(arguments)
    if file is None or not left or {"-h", "--help"} & set(left):
        app(args=left, prog_name="sweeper")
        return
    sys.exit(on_cluster.on_cluster(file, left, _parsed(left)))


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """What a command is given, by name. It is read here so that what is typed wrong is said at once."""
    command = getattr(typer.main.get_command(app), "commands", {}).get(arguments[0])
    if command is None or hasattr(command, "commands"):
        return {}
    parsed: dict[str, Any] = {}
    command.callback = parsed.update
    try:
        command.main(args=arguments[1:], prog_name=f"sweeper {arguments[0]}")
    except SystemExit as ended:
        if ended.code:
            raise
    return parsed


def _explain(error: Exception) -> int:
    """Print an error for a person and return the exit code."""
    from sweeper.errors import SpecError, SweeperError
    from sweeper.terminal import faults as view
    from trainables.interface import ConfigError, TrainableError

    console = open_console(stderr=True)
    if isinstance(error, SpecError):
        view.print_spec_error(console, error)
    elif isinstance(error, ConfigError):
        view.print_config_error(console, error)
    elif isinstance(error, (SweeperError, TrainableError)):
        view.print_error(console, str(error))
    else:
        # Not the user's doing: the traceback is what a report of it needs.
        traceback.print_exception(error)
        view.print_error(console, "This is a fault of sweeper itself. Please report it with the lines above.")
    if isinstance(error, SweeperError):
        return error.exit_code
    wrong_input = isinstance(error, TrainableError) and error.reason in ("config", "data", "environment")
    return 2 if wrong_input else 1


if __name__ == "__main__":
    main()
