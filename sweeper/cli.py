"""The command line: commands, and how an error ends them. What they do is imported when they run."""

from __future__ import annotations

import json
import sys
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
        metavar="[KEY=VALUE]...",
        help="Changes to it, e.g. budget.trials=8 parameters.optimizer.lr.max=3e-4 config.dataset.root=PATH.",
    ),
]
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
    """Run a small sweep on the built-in Push-T demonstrations: minutes on a laptop, no GPU needed."""
    from sweeper.spec import load_spec, packaged_spaces

    _launch(load_spec(packaged_spaces()[DEMO], overrides or (), sweeps), address, as_json)


def _launch(spec: SweepSpec, address: str | None, as_json: bool) -> None:
    from sweeper.launch import launch as run

    # With --json the answer alone goes to stdout; what a person watches goes to stderr.
    raise typer.Exit(run(spec, address=address, console=_console(stderr=as_json), as_json=as_json))


def _console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Exit codes: 0 done, 1 the sweep failed, 2 the user's input is wrong, 130 interrupted.
    """
    try:
        app(args=arguments, standalone_mode=True)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:
        code = _explain(error)
        if code is None:
            raise
        sys.exit(code)


def _explain(error: Exception) -> int | None:
    """Print one of our errors as a short report and return its exit code; None for any other error."""
    from sweeper.errors import SpecError, SweeperError
    from trainables.interface import ConfigError, TrainableError

    if not isinstance(error, (SweeperError, TrainableError)):
        return None
    from sweeper import console as view

    console = _console(stderr=True)
    if isinstance(error, SpecError):
        view.print_spec_error(console, error)
    elif isinstance(error, ConfigError):
        view.print_config_error(console, error)
    else:
        view.print_error(console, str(error))
    if isinstance(error, SweeperError):
        return error.exit_code
    return 2 if error.reason in ("config", "data", "environment") else 1


if __name__ == "__main__":
    main()
