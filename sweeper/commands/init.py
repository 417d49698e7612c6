"""`sweeper init`: a first space file, from what the user has."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.commands.options import open_console
from sweeper.errors import UserError
from sweeper.gpus import visible_gpus
from sweeper.spec.space_file.draft.accept import accepted
from sweeper.spec.space_file.draft.complete import complete
from sweeper.spec.space_file.draft.content import Draft, Written
from sweeper.spec.space_file.draft.from_tools import draft_of_sweep, draft_of_training
from sweeper.spec.space_file.draft.pasted_command import RUN_DEFAULTS, PastedCommand, read_command
from sweeper.spec.space_file.draft.write import grouped, value_text, written
from sweeper.spec.space_file.load import DEFAULT
from sweeper.spec.space_file.read_sections import folder_name
from sweeper.spec.space_file.yaml_nodes import Node, Place, read_file
from trainables.interface import PRECISION, Proposal, ProposedField, ProposesSpaces, Trainable, silent
from trainables.registry import load

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["init"]

STDOUT = "-"
SUFFIXES = (".yaml", ".yml")
IN_A_CHECKPOINT = ("train_config.json", "config.json")
"""Files of a checkpoint that state a training, the most complete first."""
BELOW_A_RUN = (".", "pretrained_model", "checkpoints/last/pretrained_model", "last/pretrained_model")
"""Where they are below the folder that a user may name."""


def init(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE.yaml", help="The file to write; - prints it. Default: named after the source."
        ),
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", help="A command of LeRobot, pasted after --."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="ROOT|REPO", help="A LeRobot dataset: its folder, address, or name on the hub."),
    ] = None,
    from_lerobot: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="LeRobot's train_config.json, or a checkpoint's folder."),
    ] = None,
    from_wandb: Annotated[Path | None, typer.Option(metavar="SWEEP.yaml", help="A sweep of W&B.")] = None,
    from_hydra: Annotated[
        Path | None, typer.Option(metavar="CONFIG.yaml", help="A configuration of Hydra's Optuna sweeper.")
    ] = None,
    from_optuna: Annotated[
        str | None,
        typer.Option(
            metavar="STORAGE", help="The storage of an Optuna study, or a JSON file of distributions."
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="NAME", help="The study in that storage, if it has several.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    stdout: Annotated[bool, typer.Option("--stdout", help="Print the file instead of writing it.")] = False,
) -> None:
    """Write a first space file from a dataset, a LeRobot training, or a sweep of W&B, Hydra or Optuna."""
    words = list(command or ())
    if file is not None and file != STDOUT and Path(file).suffix not in SUFFIXES:
        if words or "=" in file or " " in file:
            words, file = [file, *words], None
        else:
            raise UserError(f"{file}: the name of a space file ends in .yaml.")
    trainable = load(DEFAULT)
    sources: dict[str, Callable[[], Draft] | None] = {
        "--from-lerobot": _bind(from_lerobot, lambda path: _from_lerobot(path, trainable)),
        "--from-wandb": _bind(from_wandb, lambda path: _from_sweep(path, "the W&B sweep", trainable)),
        "--from-hydra": _bind(from_hydra, lambda path: _from_sweep(path, "Hydra's configuration", trainable)),
        "--from-optuna": _bind(from_optuna, lambda place: _from_optuna(place, study, trainable)),
        "-- COMMAND": _bind(words, lambda given: _from_command(read_command(given), trainable)),
    }
    named = {name: make for name, make in sources.items() if make is not None}
    if len(named) > 1:
        raise UserError(f"{' and '.join(named)}: name one source.")
    if not named and dataset is None:
        raise UserError(
            "name what to begin from: --dataset FOLDER, --from-lerobot, --from-wandb, --from-hydra, "
            "--from-optuna, or a command of LeRobot after --. See sweeper init --help."
        )
    draft = next(iter(named.values()))() if named else Draft(f"the dataset {dataset}")
    to_stdout = stdout or file == STDOUT
    path = None if to_stdout else Path(file or f"{_default_name(draft, dataset)}.yaml")
    if path is not None and path.exists() and not force:
        raise UserError(f"{path}: exists already. Choose another name, or replace it with --force.")
    draft.name = draft.name or _default_name(draft, dataset, path)
    console = open_console(stderr=to_stdout)
    text = _finished(draft, trainable, dataset, shlex.quote(str(path or "FILE.yaml")), console)
    if path is None:
        typer.echo(text, nl=False)
    else:
        _write(path, text)
    _report(console, draft, dataset, path)


def _bind(value: Any, make: Callable[[Any], Draft]) -> Callable[[], Draft] | None:
    return (lambda: make(value)) if value else None


# Sources


def _from_lerobot(path: Path, trainable: Trainable) -> Draft:
    if re.search(r"\s--|=", str(path)) and not path.exists():  # a command in quotes
        return _from_command(read_command([str(path)]), trainable)
    file = _training_file(path.expanduser())
    settings = _read_json(file)
    whole = "policy" in settings or "dataset" in settings
    if not whole and "type" not in settings:
        raise UserError(
            f"{file}: names no type of a policy. Expected LeRobot's train_config.json, or the config.json of "
            "one of its policies."
        )
    draft = draft_of_training(settings if whole else {"policy": settings}, f"LeRobot's {file}", trainable)
    if not whole:
        draft.note(
            "there is no train_config.json: config.json does not record the dataset, the batch and the steps."
        )
    return draft


def _training_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"--from-lerobot: {path} does not exist.")
    for folder in BELOW_A_RUN:
        for name in IN_A_CHECKPOINT:
            if (path / folder / name).is_file():
                return path / folder / name
    raise UserError(
        f"--from-lerobot: {path} has no {' or '.join(IN_A_CHECKPOINT)}, also not in "
        f"{', '.join(BELOW_A_RUN[1:])}."
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        stated = json.loads(file.read_text(encoding="utf-8-sig"))  # editors may write a byte-order mark
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{file}: is not valid JSON: {error}.") from error
    if not isinstance(stated, dict):
        raise UserError(f"{file}: contains no settings. Expected LeRobot's train_config.json or config.json.")
    return stated


def _from_command(command: PastedCommand, trainable: Trainable) -> Draft:
    settings = command.settings
    if command.config_file is not None:
        settings = _merged(_read_json(_training_file(Path(command.config_file).expanduser())), settings)
    elif command.is_lerobot_train:
        settings = _merged(RUN_DEFAULTS, settings)
    draft = draft_of_training(settings, f"the command `{command.text}`", trainable, every_value=True)
    if command.config_file is None and command.is_lerobot_train:
        _say_defaults(draft, command)
    return draft


def _say_defaults(draft: Draft, command: PastedCommand) -> None:
    """Mark the values that the command has without saying them."""
    given = command.settings
    optimizer = given.get("optimizer")
    said = {
        "train.steps": "steps" in given,
        "train.batch_size": "batch_size" in given,
        "optimizer.name": isinstance(optimizer, Mapping) and "type" in optimizer,
    }
    for name, stated in said.items():
        if name in draft.config and not stated:
            draft.config[name] = Written(
                draft.config[name].value, "LeRobot's default; the command does not set it"
            )
    draft.note(
        "fields of the policy that the command does not set have this service's defaults, which are those of "
        "LeRobot 0.4. For the defaults of LeRobot 0.6 add `policy.preset: lerobot-0.6` under config."
    )


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = (
            _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
        )
    return merged


def _from_sweep(path: Path, what: str, trainable: Trainable) -> Draft:
    _text, root = read_file(path.expanduser())
    draft = draft_of_sweep(root.value, f"{what} {path}", trainable)
    draft.name = draft.name or folder_name(path.stem) or ""
    return draft


def _from_optuna(place: str, study: str | None, trainable: Trainable) -> Draft:
    from sweeper.search.foreign_study import read_foreign_study  # loads Optuna

    found = dict(read_foreign_study(place, study))
    directions = found.pop("directions", None)
    draft = draft_of_sweep(_nodes(found).value, "an Optuna study", trainable)
    if directions is not None:
        reason = "A study does not name its objectives. List them under `objectives`, in place of `metric`."
        draft.leave("directions", directions, reason)
    draft.note(
        "sampler, pruner and objective of a study are in the program that ran it: see search and metric."
    )
    return draft


def _nodes(value: Any) -> Node:
    place = Place("study")
    if isinstance(value, Mapping):
        return Node(place, {str(key): _nodes(entry) for key, entry in value.items()})
    if isinstance(value, (list, tuple)):
        return Node(place, [_nodes(entry) for entry in value])
    return Node(place, value)


# The file


def _finished(draft: Draft, trainable: Trainable, dataset: str | None, file: str, console: Console) -> str:
    """The text of the draft with all that it lacks, which `check` accepts."""
    if not isinstance(trainable, ProposesSpaces):
        raise UserError(f"{trainable.name} cannot propose a space.")
    cache: Path | None = None
    if dataset is not None:
        from sweeper.machines.machine import usable_cache

        cache = usable_cache()
        for name in ("dataset.root", "dataset.repo_id"):
            draft.config.pop(name, None)
        named = {name: Written(value) for name, value in trainable.dataset_config(dataset).items()}
        draft.config = {**named, **draft.config}

    fields = trainable.fields

    def text_of(current: Draft) -> str:
        # What is not legal is left out later, with the reason.
        decided = {**current.fixed, **_searched_values(current)}
        given = {n: v for n, v in decided.items() if n in fields and not fields[n].faults(v)}
        proposal = _proposal(trainable, given, current.source, cache, console)
        complete(current, _for_this_machine(current, proposal), trainable)
        return written(current, trainable.name, file)

    return accepted(draft, text_of, trainable)


def _proposal(
    trainable: ProposesSpaces, given: Mapping[str, Any], source: str, cache: Path | None, console: Console
) -> Proposal:
    from sweeper.terminal.faults import checking

    if cache is None:
        return trainable.propose(given, None, silent)
    with checking(console, source, "Reading") as progress:
        return trainable.propose(given, cache, progress)


def _for_this_machine(draft: Draft, proposal: Proposal) -> Proposal:
    """The proposal with fp32 for bf16 if trials would train on the CPU: most lack instructions for it."""
    gpu = draft.sections.get("resources", {}).get("gpu_per_worker", "auto")
    bf16 = any(entry.name == PRECISION and entry.value == "bf16" for entry in proposal.config)
    if not bf16 or gpu not in ("auto", 0) or (gpu == "auto" and visible_gpus()):
        return proposal
    fp32 = ProposedField(PRECISION, "fp32", "there is no GPU here; on a GPU bf16 takes half the memory")
    config = (fp32 if entry.name == PRECISION else entry for entry in proposal.config)
    return replace(proposal, config=tuple(config))


def _searched_values(draft: Draft) -> dict[str, Any]:
    """One value of each searched field, by which the rest is chosen: it is decided, too."""
    found = {}
    for name, entry in draft.parameters.items():
        form = entry.value if isinstance(entry.value, Mapping) else {}
        values = form.get("values")
        values = values if isinstance(values, list) else [values]
        numbers = [value for value in values if isinstance(value, (int, float))]
        first = next((value for value in values if value is not None), form.get("min"))
        found[name] = min(numbers) if numbers else first
    return {name: value for name, value in found.items() if value is not None}


def _default_name(draft: Draft, dataset: str | None, path: Path | None = None) -> str:
    """The name of the sweep and of its file."""
    if draft.name:
        return draft.name
    if path is not None:
        return folder_name(path.stem) or "space"
    named = dataset or next(
        (draft.fixed[f"dataset.{key}"] for key in ("root", "repo_id") if draft.fixed.get(f"dataset.{key}")),
        "",
    )
    last = str(named if isinstance(named, str) else named[0]).rstrip("/").rpartition("/")[2]
    return folder_name(last) or "space"


def _write(path: Path, text: str) -> None:
    building = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        building.write_text(text, encoding="utf-8")
        building.replace(path)
    except OSError as error:
        building.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}.") from error


def _report(console: Console, draft: Draft, dataset: str | None, path: Path | None) -> None:
    """Print what was read, what was decided, what could not be carried over, and what to type next."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    def print_line(sign: str, style: str, line: str) -> None:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(Text(sign, style=style), Text(line))
        console.print(Padding(grid, (0, 0, 0, 2)))

    what = "Printed a space" if path is None else f"Wrote {path}"
    wrote = Text.assemble(("✓ ", "bold green"), (what, "bold"), f", from {draft.source}")
    console.print(wrote, soft_wrap=True)  # paths are copied
    for sentence in draft.found:
        console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 2)))
    console.print()
    for title, entries in (("Fixed", draft.config), ("Searched", draft.parameters)):
        console.print(Padding(Text(title, "bold"), (0, 0, 0, 2)))
        _print_entries(console, entries)
    metric = draft.sections.get("metric")
    if isinstance(metric, dict):
        why = draft.comments.get("metric")
        console.print(
            Padding(f"The search optimises {metric.get('name')}{f', {why}' if why else ''}.", (0, 0, 0, 2))
        )
    if draft.notes:
        console.print()
    for note in draft.notes:
        print_line("·", "cyan", note)
    if draft.left:
        console.print()
        console.print(
            Padding(
                Text(f"Not carried over ({len(draft.left)}), also listed in the file:", "bold"), (0, 0, 0, 2)
            )
        )
        for names, reason in grouped(draft.left):
            print_line("-", "yellow", f"{names}: {reason}")
    if path is not None:
        console.print()
        console.print(Text(f"  Next: read {path}, then"), soft_wrap=True)
        typed = shlex.quote(str(path))
        # Of the space, not of the dataset: its settings decide what is a fault (cameras of different sizes).
        look = [] if dataset is None else [f"sweeper data check {typed}"]
        for line in (*look, f"sweeper check {typed}", f"sweeper launch {typed}"):
            console.print(Text(f"      {line}", "bold"), soft_wrap=True)  # to be copied whole


def _print_entries(console: Console, entries: Mapping[str, Written]) -> None:
    """Print fields with values and comments; first long paths, each on one line so that it can be copied."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    indent, gap = 4, 2
    names = max(map(len, entries), default=0)
    # The columns of values and comments share what the names leave.
    room = (console.width - indent - names - 2 * gap) // 2
    texts = {name: value_text(entry.value) for name, entry in entries.items()}
    paths = [name for name, entry in entries.items() if isinstance(entry.value, str) and "/" in entry.value]
    long_paths = [name for name in paths if len(texts[name]) > room]
    for name in long_paths:
        comment = (f"  {entries[name].comment}".rstrip(), "dim")
        line = Text.assemble(" " * indent, name.ljust(names + gap), texts[name], comment)
        console.print(line, soft_wrap=True)
    table = Table.grid(padding=(0, gap))
    table.add_column(no_wrap=True, min_width=names)  # names are never cut
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, entry in entries.items():
        if name not in long_paths:
            table.add_row(name, Text(texts[name]), Text(entry.comment, style="dim"))
    console.print(Padding(table, (0, 0, 0, indent)))
