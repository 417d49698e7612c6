"""Reading a space file: YAML and overrides in, a `SweepSpec` out, or every fault at once with its line.

The format is described in docs/spaces.md. Nothing here imports torch, ray, optuna or mlflow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sweeper.layout import SWEEPS
from sweeper.spec.search_methods import method_faults
from sweeper.spec.space import Space
from sweeper.spec.space_file.combinations import check_combinations, check_try_first
from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.overrides import apply_overrides, as_text
from sweeper.spec.space_file.read_inference import read_confirm, read_inference
from sweeper.spec.space_file.read_sections import (
    read_alerts,
    read_budget,
    read_cost,
    read_early_stop,
    read_failures,
    read_keep,
    read_name,
    read_objectives,
    read_resources,
    read_search,
    read_tracking,
)
from sweeper.spec.space_file.read_space import (
    read_config,
    read_inherited,
    read_preset,
    read_space,
    read_try_first,
)
from sweeper.spec.space_file.translate import translate_document
from sweeper.spec.space_file.yaml_nodes import Place, parse_override, read_file
from sweeper.spec.sweep import (
    BudgetSpec,
    EarlyStopSpec,
    Goal,
    Objective,
    ResourceSpec,
    SearchSpec,
    SettledResources,
    SweepSpec,
    TrackingSpec,
)
from sweeper.text import is_there
from trainables import registry
from trainables.interface import ConfigError, Trainable

__all__ = [
    "BudgetSpec",
    "EarlyStopSpec",
    "Goal",
    "Objective",
    "ResourceSpec",
    "SearchSpec",
    "SettledResources",
    "SweepSpec",
    "TrackingSpec",
    "find_space",
    "load_spec",
    "packaged_spaces",
]

DEMO = "pusht_quick"
DEFAULT = "diffusion_policy"
"""The trainable by which a file is checked that does not name one, or misspells its name."""

PACKAGED = "search_spaces"
"""Name of the folder that contains the spaces of the package."""

SUFFIXES = (".yaml", ".yml")
"""Endings of the names of space files."""


def load_spec(
    path: Path | str,
    overrides: Sequence[str] = (),
    sweeps_dir: Path | str = SWEEPS,
    *,
    trainable: Trainable | None = None,
) -> SweepSpec:
    """Read and check a space file.

    Args:
        path: The file, or the name of a space that comes with the package (``pusht_quick``).
        overrides: ``key=value`` texts, applied in order.
        sweeps_dir: The folder that contains the sweep's own folder.
        trainable: Used instead of the one that the file names.

    Raises:
        SpecError: With every fault of the file and of the overrides, each with its place.
    """
    path = find_space(path)
    text, root = read_file(path, tuple(packaged_spaces()))
    document = Document(root.value, Place(str(path)))
    parsed = [parse_override(argument, document.faults) for argument in overrides]
    known = [override for override in parsed if override is not None]
    for override in known:
        if override.key == "trainable":
            document.root["trainable"] = as_text(override)
    trainable_name = _load_trainable(document, trainable)
    apply_overrides(document, known)
    translate_document(document)
    document.check_sections()
    name = read_name(document, default=path.stem)
    before = len(document.faults)  # wrong names: what they stand for is checked as if it were written
    read_config(document)
    read_preset(document)
    read_inherited(document)
    space, places = read_space(document)
    points_known = len(document.faults) == before
    objectives = read_objectives(document)
    early_stop = read_early_stop(document, objectives)
    resources = read_resources(document)
    failures, keep = read_failures(document), read_keep(document)
    others = len(document.faults)
    document.inference = read_inference(document, objectives)
    # What is trained depends on the section.
    points_known = points_known and len(document.faults) == others
    confirm = read_confirm(document)
    tracking = read_tracking(document, name)
    search = read_search(document, name)
    if points_known and space.parameters:
        _check_search(document, search, space, objectives)
        search = dataclasses.replace(search, try_first=read_try_first(document, space))
    if points_known:  # faults in other sections do not hide these
        check_combinations(document, space, places, resources.workers)
        check_try_first(document, space, search.try_first, resources.workers)
    grid = _grid_size(document, space) if search.method == "grid" and not len(document.faults) else None
    budget = read_budget(document, grid, may_be_missing=search.method == "grid")
    if len(search.try_first) > budget.trials:
        problem = f"{len(search.try_first)} trials are listed, and budget.trials is {budget.trials}."
        remedy = "Raise budget.trials, or list fewer."
        document.faults.add(document.place("search", "try_first"), "search.try_first", problem, remedy)
    cost, alerts = read_cost(document, budget), read_alerts(document)
    document.faults.raise_any()
    return SweepSpec(
        name=name,
        trainable=trainable_name,
        config=document.config,
        space=space,
        objectives=objectives,
        search=search,
        early_stop=early_stop,
        budget=budget,
        resources=resources,
        tracking=tracking,
        folder=Path(sweeps_dir) / name,
        source=text,
        failures=failures,
        keep=keep,
        inference=document.inference,
        confirm=confirm,
        cost=cost,
        alerts=alerts,
        overrides=tuple(overrides),
        notes=tuple(document.notes),
        warnings=tuple(document.warnings),
    )


def _hint_for_other_tools(document: Document) -> str:
    """How `sweeper init` reads the file, if it is one of W&B or Hydra; else empty."""
    tools = {"wandb": {"method", "parameters"}, "hydra": {"hydra"}}
    options = [option for option, sections in tools.items() if sections <= document.root.keys()]
    command = f"sweeper init --from-{options[0]} FILE" if options else ""
    return f" `{command}` writes a whole space file from this one." if options else ""


def _load_trainable(document: Document, given: Trainable | None) -> str:
    node = document.root.get("trainable")
    if given is not None:
        document.trainable = given
        return given.name if node is None else str(node.plain())
    if node is None or node.value is None:
        remedy = f"Write `trainable: {DEFAULT}`, or `trainable: module:attribute` for a custom one."
        remedy += _hint_for_other_tools(document)
        document.faults.add(document.whole, "trainable", "is missing.", remedy)
        document.trainable = registry.load(DEFAULT)  # so that the rest of the file is checked
        return ""
    name = node.plain()
    if not isinstance(name, str):
        document.faults.add(
            node.place, "trainable", f"{name!r} is not a name.", f"Known: {', '.join(registry.names())}."
        )
        return ""
    try:
        document.trainable = registry.load(name)
    except ConfigError as error:
        for fault in error.faults:
            document.faults.add(node.place, "trainable", fault.problem, fault.remedy)
        if ":" not in name:  # a misspelt name, so that the rest of the file is checked
            document.trainable = registry.load(DEFAULT)
    return name


def _check_search(
    document: Document, search: SearchSpec, space: Space, objectives: tuple[Objective, ...]
) -> None:
    for problem in method_faults(search, space, objectives):
        document.faults.add(document.place("search", "method"), "search.method", problem)


MAX_GRID = 20_000
"""A grid beyond this is a mistake in its steps, and counting it would take long."""


def _grid_size(document: Document, space: Space) -> int | None:
    size = space.size()
    if size is None:
        return None
    if size > MAX_GRID:
        problem = f"a grid of {size:,} combinations is too large; at most {MAX_GRID:,}."
        remedy = "Use wider steps or fewer values, or search with method: tpe."
        document.faults.add(document.place("search", "method"), "search.method", problem, remedy)
        return None
    return sum(1 for _ in space.points(document.config))


def packaged_spaces() -> dict[str, Path]:
    """The spaces that come with the package, by name: from the wheel, or from the checkout it runs in."""
    package = Path(__file__).parents[2]  # sweeper/
    for folder in (package / PACKAGED, package.parent / PACKAGED):
        found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        if found:
            return found
    return {}


def find_space(path: Path | str) -> Path:
    """The file, with or without its suffix, or the packaged space of that name.

    `read_file` reports a missing file. A packaged space is found from any folder, by its name
    (``real_robot``), by the name of its sweep (``real-robot``) or as its file (``real_robot.yaml``,
    ``search_spaces/real_robot.yaml``).
    """
    path = Path(path)
    # A folder of the same name, such as a dataset or a sweep, hides no space.
    if (is_there(path) and not path.is_dir()) or path.suffix not in ("", *SUFFIXES):
        return path
    for file in (path.with_suffix(suffix) for suffix in SUFFIXES if path.name and not path.suffix):
        if is_there(file):
            return file
    if path.parts[:-1] in ((), (PACKAGED,)):
        return packaged_spaces().get(path.stem.replace("-", "_"), path)
    return path
