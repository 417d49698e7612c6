"""The command line: the table of commands, and how an error ends them.

The module of a command is imported when the command runs, so `sweeper --help` imports none of them.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import errno
import gc
import importlib
import io
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from sweeper import __version__
from sweeper.commands.options import CLUSTER_OPTION, SWEEPS_VARIABLE, Command, Group, open_console
from sweeper.errors import INTERRUPTED, SpecError, SweeperError, UserError
from trainables.interface import ConfigError, TrainableError, expanded

__all__ = ["COMMANDS", "CommandEntry", "app", "load_command", "main"]


@dataclass(frozen=True)
class CommandEntry:
    """The entry of a command in `sweeper --help`, and the place of its definition.

    Attributes:
        panel: The heading in `sweeper --help`.
        target: ``module:attribute`` in `sweeper.commands`: a function, or a Typer with commands of its own.
        help: One line. It equals the docstring of the function.
    """

    panel: str
    target: str
    help: str


_SWEEPS, _RUNNING, _RESULTS, _FINALISTS, _CHECKPOINTS, _MACHINES, _DATA = (
    "Sweeps",
    "Running sweeps",
    "Results",
    "Trained policies",
    "Checkpoints",
    "Machines",
    "Data",
)

COMMANDS: Mapping[str, CommandEntry] = {
    "init": CommandEntry(
        _SWEEPS,
        "init:init",
        "Write a first space file from a dataset, a LeRobot training, or a sweep of W&B, Hydra or Optuna.",
    ),
    "check": CommandEntry(
        _SWEEPS, "sweeps:check", "Check a space file and show what would run. Starts nothing."
    ),
    "launch": CommandEntry(
        _SWEEPS,
        "sweeps:launch",
        "Run a sweep. Ctrl-C stops it cleanly; the same command continues it.",
    ),
    "demo": CommandEntry(
        _SWEEPS,
        "sweeps:demo",
        "Run a small example sweep on built-in Push-T data. Takes minutes on a laptop, needs no GPU.",
    ),
    "schema": CommandEntry(
        _SWEEPS,
        "sweeps:schema",
        "Print the JSON Schema of space files: editors complete and check a file with it while you type.",
    ),
    "status": CommandEntry(
        _RUNNING,
        "steering:status",
        "Show the state of one sweep or of all: trials, best value so far, budget used.",
    ),
    "watch": CommandEntry(
        _RUNNING,
        "steering:watch",
        "Follow a running sweep until it ends. Ctrl-C stops watching, not the sweep.",
    ),
    "logs": CommandEntry(
        _RUNNING,
        "steering:logs",
        "Show the end of a trial's log. Without TRIAL: the last events and the driver's log.",
    ),
    "pause": CommandEntry(
        _RUNNING,
        "steering:pause",
        "Stop running trials at a checkpoint and free their resources. The driver waits for `resume`.",
    ),
    "resume": CommandEntry(
        _RUNNING,
        "steering:resume",
        "Resume a sweep that is paused, ended, or whose driver is gone; a larger budget continues it.",
    ),
    "stop": CommandEntry(
        _RUNNING,
        "steering:stop",
        "Start no more trials; running trials finish. With TRIAL: stop that trial after a checkpoint.",
    ),
    "cancel": CommandEntry(
        _RUNNING,
        "steering:cancel",
        "Stop a sweep or one trial now. `resume` continues a sweep from its last checkpoints.",
    ),
    "budget": CommandEntry(
        _RUNNING,
        "steering:budget",
        "Raise or lower the budget of a running sweep. It applies at once, and is kept on resume.",
    ),
    "results": CommandEntry(
        _RESULTS, "results:results", "Show a sweep's trials, best first. Works while the sweep runs."
    ),
    "report": CommandEntry(
        _RESULTS,
        "results:report",
        "Write the report of a sweep: one HTML file, which opens without a network.",
    ),
    "list": CommandEntry(_RESULTS, "results:list_sweeps", "List all sweeps, newest first."),
    "sync": CommandEntry(
        _RESULTS,
        "results:sync",
        "Upload missing data of a sweep to MLflow. Nothing is uploaded twice.",
    ),
    "ui": CommandEntry(
        _RESULTS, "results:ui", "Serve MLflow's web pages for a sweep on this machine until Ctrl-C."
    ),
    "compare": CommandEntry(
        _FINALISTS,
        "trained.finalists:compare",
        "Compare trained policies on the same episodes: how large the difference is, and how sure.",
    ),
    "eval": CommandEntry(
        _FINALISTS,
        "trained.inspection:evaluate",
        "Look into one policy: success, action errors, smoothness, diversity, latency, and its denoising.",
    ),
    "bench": CommandEntry(
        _FINALISTS,
        "trained.bench:bench",
        "Time the ways to compute a policy's actions: latency, memory, difference, and success.",
    ),
    "tune": CommandEntry(
        _FINALISTS,
        "trained.tuning:tune",
        "Choose the inference setting of trained policies, without training: value against latency.",
    ),
    "confirm": CommandEntry(
        _FINALISTS,
        "trained.finalists:confirm",
        "Evaluate the best trials on fresh starts until it is clear which one is the best, and how good.",
    ),
    "serve": CommandEntry(
        _FINALISTS,
        "trained.serving:serve",
        "Serve a policy to robots over a WebSocket until Ctrl-C: actions for observations.",
    ),
    "judge": CommandEntry(
        _FINALISTS,
        "trained.judging:judge",
        "Compare the best trials on the real robot: you judge each episode without knowing the policy.",
    ),
    "export": CommandEntry(
        _CHECKPOINTS,
        "checkpoints:export",
        "Export a trial's policy for LeRobot, ONNX Runtime or torch, as a bundle, or to the hub.",
    ),
    "doctor": CommandEntry(
        _MACHINES,
        "doctor:doctor",
        "Find problems of this machine or a cluster, and show how to fix them.",
    ),
    "jobs": CommandEntry(
        _MACHINES,
        "jobs:jobs",
        "List the sweeps that run as jobs on a cluster, show a job's output, or stop a job.",
    ),
    "cache": CommandEntry(
        _DATA,
        "cache:cache",
        "Show the decoded frames and datasets in the cache of this machine, or delete them.",
    ),
    "data": CommandEntry(
        _DATA,
        "data:app",
        "Check a dataset, show what it contains, or write a repaired copy, before training.",
    ),
}


def load_command(name: str) -> Any:
    """Import the module of a command and build the command."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    found = getattr(importlib.import_module(f"sweeper.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    alone = typer.Typer(add_completion=False)
    alone.command(name, cls=Command)(found)
    return typer.main.get_command(alone)


class _Commands(Group):
    """Lists commands from the table, and imports the module of the one that runs."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = {
            name: TyperCommand(name, help=entry.help, rich_help_panel=entry.panel)
            for name, entry in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Load the command that is named; if there is none, list all commands and the nearest names."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.commands)
            hint = f"Did you mean {' or '.join(repr(name) for name in near)}? " if near else ""
            ctx.fail(f"{args[0]!r} is not a command. {hint}Commands: {', '.join(self.commands)}.")
        name, _, left = super().resolve_command(ctx, args)
        return name, load_command(str(name)), left


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
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    cluster_file: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            metavar="FILE",
            help="Run the command on the cluster of `ray up FILE`, over SSH. Also allowed after the command.",
        ),
    ] = None,
) -> None:
    """Hyperparameter sweeps for Diffusion Policies on LeRobot datasets."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Exit codes: 0 success, 1 the sweep failed, 2 invalid input, 130 interrupted.
    """
    # Python collects garbage several times while it ends: a second if Ray, MLflow and Optuna are loaded.
    atexit.register(gc.freeze)
    try:
        _main(arguments)
    except SystemExit as ended:
        ray = sys.modules.get("sweeper.machines.local_ray")  # not loaded: this process started no Ray
        if ray is not None:
            ray.leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise


def _main(arguments: list[str] | None) -> None:
    _print_any_character()
    _look_for_modules_here()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # `sweeper results NAME | head` is not an error. Nothing may be flushed to the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        sys.exit(_explain(error))


def _print_any_character() -> None:
    """Print a question mark for what the terminal's character set does not have, as in ISO 8859-1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _look_for_modules_here() -> None:
    """Let custom trainables be imported from the current folder, as with `python -m`. Others come first."""
    with contextlib.suppress(OSError):  # the folder was deleted
        here = str(Path.cwd())
        if not {"", here} & set(sys.path):
            sys.path.append(here)


def _run(arguments: list[str]) -> None:
    """Run a command here, or on the cluster that ``--cluster`` names."""
    _check_dashes(arguments)
    if not any(argument.partition("=")[0] == CLUSTER_OPTION for argument in arguments):
        app(args=_at_home(arguments), prog_name="sweeper")
        return
    from sweeper.commands import on_cluster  # a command on this machine is faster without it

    file, left = on_cluster.split_cluster(arguments)
    if file is None or not left or {"-h", "--help"} & set(left):
        app(args=left, prog_name="sweeper")
        return
    sys.exit(on_cluster.on_cluster(file, left, _parsed(left)))


def _at_home(arguments: list[str]) -> list[str]:
    """The arguments with ``~`` filled in, also in the folder of sweeps that the environment names.

    No shell does so in ``--sweeps=~/folder`` and in the files that set variables: a folder called ``~`` would
    be created. On a cluster ``~`` is the home folder there.
    """
    if os.environ.get(SWEEPS_VARIABLE, "").startswith("~"):
        os.environ[SWEEPS_VARIABLE] = str(expanded(os.environ[SWEEPS_VARIABLE]))
    end = arguments.index("--") if "--" in arguments else len(arguments)  # then comes a pasted command
    return [_filled(argument) for argument in arguments[:end]] + arguments[end:]


def _filled(argument: str) -> str:
    option, _, value = argument.partition("=")
    return f"{option}={expanded(value)}" if option.startswith("--") and value.startswith("~") else argument


def _check_dashes(arguments: list[str]) -> None:
    """Explain an override that is written like an option, as LeRobot's commands have it.

    Raises:
        UserError: If there is one; no option of ours has a dot in its name.
    """
    for place, argument in enumerate(arguments):
        if argument == "--":
            return  # a pasted command
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or "." not in name:
            continue
        if not equals:
            value = arguments[place + 1] if place + 1 < len(arguments) else "VALUE"
        if arguments[0] == "init":
            raise UserError(
                f"{argument} is a flag of the pasted command. Write -- before the command: "
                "sweeper init space.yaml -- lerobot-train --policy.type=diffusion ..."
            )
        section = name.partition(".")[0]
        own = section in ("config", "parameters", "search", "budget", "resources", "inference", "confirm")
        typed = name if own else f"config.{name}"
        raise UserError(
            f"{argument} is not an option: values of the space are given without dashes. "
            f"Write {typed}={value}, after the space file."
        )


def _parsed(arguments: list[str]) -> dict[str, Any]:
    """The values of a command's arguments and options, by name.

    They are parsed here so that an error in them is reported before the cluster is contacted.
    """
    command = load_command(arguments[0]) if arguments[0] in COMMANDS else None
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


_PERMISSION = "Check the owner and the permissions, or name another place."
_DISK = "Make room on that disk, or name another place."
_REFUSALS: Mapping[int | None, str] = {
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "Name a place on a disk that can be written.",
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EEXIST: "A file of this name is in the way. Move it, or name another place.",
    errno.ENAMETOOLONG: "A name of a file has at most 255 bytes. Check what was typed.",
    errno.ELOOP: "Repair the links, which lead to each other.",
    errno.ENOTDIR: "A part of this path is a file, not a folder.",
    errno.EISDIR: "This is a folder, and a file is expected.",
    errno.EIO: "The disk or the network drive failed. Check it, and try again.",
    errno.ESTALE: "The network drive has changed. Mount it again, and try again.",
}
"""What to do if the system refuses a path."""


def _has_place(error: OSError) -> bool:
    """Whether an error names a path, or is that of a full disk to which the output goes."""
    return error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)


def _explain(error: Exception) -> int:
    """Print an error for the user and return the exit code."""
    from sweeper.terminal import faults as view  # loads rich, which most commands with --json do not need

    console = open_console(stderr=True)
    if isinstance(error, SpecError):
        view.print_spec_error(console, error)
    elif isinstance(error, ConfigError):
        view.print_config_error(console, error)
    elif isinstance(error, (SweeperError, TrainableError)):
        view.print_error(console, str(error))
    elif isinstance(error, OSError) and error.errno in _REFUSALS and _has_place(error):
        # What the user named cannot be used on this machine; that is not a bug.
        where = error.filename or "The output"
        view.print_error(console, f"{where}: {error.strerror}. {_REFUSALS[error.errno]}")
        return 2
    elif isinstance(error, RuntimeError) and "home directory" in str(error):
        message = "A path begins with ~, and there is no such home folder here. Write it whole, or set HOME."
        view.print_error(console, message)
        return 2
    else:
        # Not the user's mistake: a bug report needs the traceback.
        traceback.print_exception(error)
        view.print_error(console, "This is a bug in sweeper. Please report it with the lines above.")
    if isinstance(error, SweeperError):
        return error.exit_code
    wrong_input = isinstance(error, TrainableError) and error.reason in ("config", "data", "environment")
    return 2 if wrong_input else 1


if __name__ == "__main__":
    main()
