"""The command line: commands, and how an error ends them. What they do is imported when they run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.sweep import SweepSpec

__all__ = ["app", "main"]

DEMO = "pusht_quick"
INTERRUPTED = 130

app = typer.Typer(
    name="sweeper",
    help="Hyperparameter sweeps for Diffusion Policies on LeRobot datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # errors are printed by `main`
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
SweepsFolder = Annotated[Path, typer.Option("--sweeps", help="The folder in which sweeps lie.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script.")]
Address = Annotated[
    str | None,
    typer.Option(help="Ray cluster to run on; without it RAY_ADDRESS, or a local Ray.", metavar="ADDRESS"),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hyperparameter sweeps for Diffusion Policies on LeRobot datasets."""


@app.command()
def check(
    space: SpaceFile,
    overrides: Overrides = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Check a space file and say what would run. Starts nothing."""
    from sweeper.plan import make_plan
    from sweeper.spec import load_spec

    plan = make_plan(load_spec(space, overrides or (), sweeps))
    if as_json:
        typer.echo(json.dumps(plan.to_dict(), indent=2))
        return
    from sweeper.console import print_plan

    print_plan(_console(), plan)


@app.command()
def launch(
    space: SpaceFile,
    overrides: Overrides = None,
    address: Address = None,
    name: Annotated[str | None, typer.Option(help="Name of the sweep, instead of the file's.")] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Run a sweep. Ctrl-C stops it cleanly; the same command goes on where it stopped."""
    from sweeper.spec import load_spec

    changes = [*(overrides or ()), *([] if name is None else [f"name={name}"])]
    _launch(load_spec(space, changes, sweeps), address, as_json)


@app.command()
def demo(
    overrides: Overrides = None,
    address: Address = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Run a small sweep on the built-in Push-T demonstrations: minutes on a laptop, no GPU."""
    from sweeper.spec import load_spec, packaged_spaces

    _launch(load_spec(packaged_spaces()[DEMO], overrides or (), sweeps), address, as_json)


@app.command()
def results(
    sweep: Sweep,
    top: Annotated[int | None, typer.Option(min=1, help="Show the best N trials only.", metavar="N")] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Show the ranking of a sweep's trials, also while it runs."""
    from sweeper.results import read_sweep, to_json
    from sweeper.tables import print_ranking
    from sweeper.ui import find_sweep

    found = read_sweep(find_sweep(sweep, sweeps))
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=2))
    else:
        print_ranking(_console(), found, top)


@app.command(name="list")
def list_command(sweeps: SweepsFolder = Path("sweeps"), as_json: Json = False) -> None:
    """List the sweeps, the last started first."""
    from sweeper.results import list_sweeps, to_json
    from sweeper.tables import sweeps_table

    found = list_sweeps(sweeps)
    if as_json:
        typer.echo(json.dumps([to_json(sweep) for sweep in found], indent=2))
    elif found:
        _console().print(sweeps_table(found))
    else:
        _console().print(f"No sweeps in {sweeps}. `sweeper demo` makes one.")


@app.command()
def ui(
    sweep: Sweep,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    sweeps: SweepsFolder = Path("sweeps"),
) -> None:
    """Serve MLflow's pages for a sweep on this machine, until Ctrl-C."""
    from sweeper.results import read_sweep
    from sweeper.ui import find_sweep, serve

    folder = find_sweep(sweep, sweeps)
    uri = read_sweep(folder).spec["tracking"]["uri"]
    if uri is not None and uri.startswith(("http://", "https://")):
        typer.echo(f"The runs of {sweep} are on the MLflow server at {uri}")
        return
    # The server is a process of its own: however this one is ended, it must not stay behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), serve(folder, port, uri) as pages:
        typer.echo(f"{pages.url}  (Ctrl-C ends it)")
        pages.wait()


def _launch(spec: SweepSpec, address: str | None, as_json: bool) -> None:
    from sweeper.launch import launch as run

    # With --json the answer alone goes to stdout; what a person watches goes to stderr.
    code = run(spec, address=address, console=_console(stderr=as_json))
    if as_json:
        from sweeper.results import read_sweep, to_json

        typer.echo(json.dumps(to_json(read_sweep(spec.folder)), indent=2))
    raise typer.Exit(code)


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Exit codes: 0 done, 1 the sweep failed, 2 the user's input is wrong, 130 interrupted.
    """
    try:
        app(args=arguments, prog_name="sweeper")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # `sweeper results NAME | head` is no mistake. Nothing may be flushed to the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Print an error for a person and return the exit code."""
    from sweeper import console as view
    from sweeper.errors import SpecError, SweeperError
    from trainables.interface import ConfigError, TrainableError

    console = _console(stderr=True)
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
