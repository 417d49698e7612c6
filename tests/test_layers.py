"""The rules of `docs/decisions/0007-rooms.md`: who may import whom, how large a room is, what stays light.

The ranks are in `tests/rooms.py`. Imports inside functions and under TYPE_CHECKING count.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest

from tests.measure import circles, import_graph, imports_in, read_modules
from tests.rooms import LARGEST_ROOM, runs_up, without_rank

ROOT = Path(__file__).parent.parent
HEAVY = {
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "optuna",
    "diffusers",
    "pyarrow",
    "av",
    "gymnasium",
    "matplotlib",
    "plotly",
    "scipy",
}
SERVICE = {"ray", "optuna", "mlflow", "sweeper"}
STDLIB_ONLY = (
    "addresses.py",
    "episodes.py",
    "inspection.py",
    "files.py",
    "interface/__init__.py",
    "interface/datasets.py",
    "interface/fields.py",
    "interface/policies.py",
    "interface/training.py",
    "ranges.py",
    "shares.py",
    "registry.py",
    "features.py",
    "deployment/__init__.py",
    "deployment/bundle.py",
    "diffusion_policy/__init__.py",
    "diffusion_policy/config/clashes.py",
    "diffusion_policy/config/diffusion_config.py",
    "diffusion_policy/pretrained/lerobot_config.py",
    "diffusion_policy/finetuning/starting_point.py",
    "diffusion_policy/finetuning/compatibility.py",
    "diffusion_policy/pretrained/read_config.py",
    "diffusion_policy/pretrained/lerobot_processors.py",
    "diffusion_policy/config/sections.py",
    "diffusion_policy/config/presets.py",
    "diffusion_policy/network/clipping.py",
    "diffusion_policy/network/shapes.py",
    "diffusion_policy/pretrained/action_statistics.py",
    "diffusion_policy/pretrained/tensor_file.py",
    "diffusion_policy/pretrained/inferred.py",
    "diffusion_policy/finetuning/resolve.py",
    "diffusion_policy/pretrained/find.py",
    "diffusion_policy/pretrained/pretrained_config.py",
    "diffusion_policy/trainable.py",
    "diffusion_policy_distilled/__init__.py",
    "diffusion_policy_distilled/settings.py",
    "diffusion_policy_distilled/trainable.py",
)


MODULES = read_modules(ROOT)
GRAPH = import_graph(MODULES)
TREES = {ROOT / module.path: module.tree for module in MODULES.values()}


@functools.cache
def imported(path: Path, *, everywhere: bool = True) -> frozenset[str]:
    """Modules that a file imports; with ``everywhere`` also inside functions."""
    tree = TREES[path]
    nodes = imports_in(tree) if everywhere else tree.body
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return frozenset(names)


def roots(names: Collection[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_the_learning_core_does_not_know_the_service() -> None:
    files = sorted((ROOT / "trainables").rglob("*.py"))
    assert len(files) >= 20, "the walk did not find the package"
    guilty = {str(file.relative_to(ROOT)): roots(imported(file)) & SERVICE for file in files}
    assert {file: names for file, names in guilty.items() if names} == {}


def test_the_service_knows_trainables_only_through_the_interface() -> None:
    files = sorted((ROOT / "sweeper").rglob("*.py"))
    assert len(files) >= 10, "the walk did not find the package"
    allowed = {
        "trainables",
        "trainables.interface",
        "trainables.registry",
        "trainables.episodes",
        "trainables.inspection",
        "trainables.confidence",
        "trainables.deployment.bundle",
        "trainables.deployment.card",
    }
    guilty = {
        str(file.relative_to(ROOT)): {n for n in imported(file) if n.startswith("trainables")} - allowed
        for file in files
    }
    assert {file: names for file, names in guilty.items() if names} == {}


def test_the_seam_and_the_configuration_need_only_the_standard_library() -> None:
    for name in STDLIB_ONLY:
        file = ROOT / "trainables" / name
        outside = roots(imported(file, everywhere=False)) - sys.stdlib_module_names - {"trainables"}
        assert outside == set(), name


def test_help_and_check_load_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from sweeper.cli import main\n"
        "sys.argv[1:] = {arguments!r}\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code or 0\n"
        "assert code == 0, code\n"
        "print('LOADED', *sorted(set(sys.modules) & {heavy!r}))\n"
    )
    space = ["check", str(ROOT / "search_spaces" / "pusht_state.yaml")]
    fields = ["config.dataset.fraction=0.5", "config.optimizer.lr_batch_rule=sqrt", "config.augment.hue=0.1"]
    for arguments in (["--help"], space, [*space, *fields]):
        run = subprocess.run(
            [sys.executable, "-c", program.format(arguments=arguments, heavy=HEAVY)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.splitlines()[-1].strip() == "LOADED", arguments


def test_only_the_pictures_of_a_dataset_load_matplotlib() -> None:
    program = "import sys, trainables.dataset; print('matplotlib' in sys.modules)"
    for module, loaded in (("trainables.dataset", "False"), ("trainables.dataset.portrait", "True")):
        run = subprocess.run(
            [sys.executable, "-c", program.replace("trainables.dataset;", f"{module};")],
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert run.stdout.strip() == loaded, module


def outside(name: str) -> set[str]:
    """What a module imports from outside both packages, by the full names of the modules."""
    return {
        found
        for found in imported(ROOT / MODULES[name].path)
        if not found.startswith(("sweeper", "trainables"))
    }


def below(room: str) -> list[str]:
    """The modules of a room, with those of the rooms inside it."""
    found = [name for name in MODULES if name == room or name.startswith(f"{room}.")]
    assert found, f"there is no room {room}"
    return found


def test_every_module_was_read_and_has_a_rank() -> None:
    files = [path for package in ("sweeper", "trainables") for path in (ROOT / package).rglob("*.py")]
    assert len(files) == len(MODULES) >= 190
    assert without_rank(set(MODULES)) == set()


def test_imports_run_downwards_only() -> None:
    edges = [(name, target) for name, targets in GRAPH.items() for target in targets]
    assert len(edges) >= 700, "the imports were not found"
    assert [edge for edge in edges if runs_up(*edge)] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(GRAPH) == []


def test_no_room_has_more_files_than_can_be_seen_at_a_glance() -> None:
    files = Counter(module.path.parent for module in MODULES.values() if not module.is_package)
    assert len(files) >= 20, "the rooms were not found"
    assert {str(room): count for room, count in files.items() if count > LARGEST_ROOM} == {}


def test_a_trial_knows_neither_the_space_file_nor_the_records() -> None:
    known = {target for name in below("sweeper.trial") for target in GRAPH[name]}
    assert {target for target in known if target.startswith(("sweeper.spec", "sweeper.records"))} == set()


def test_records_are_read_without_ray_optuna_and_mlflow() -> None:
    seen, waiting = set(), list(below("sweeper.records"))
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += GRAPH[name]
    assert {name: roots(outside(name)) & HEAVY for name in seen if roots(outside(name)) & HEAVY} == {}


def test_what_a_sweep_is_needs_the_standard_library_only() -> None:
    names = [name for name in below("sweeper.spec") if not name.startswith("sweeper.spec.space_file")]
    assert len(names) >= 4
    assert set().union(*(roots(outside(name)) for name in names)) - sys.stdlib_module_names == set()


def test_evidence_needs_numpy_scipy_and_the_intervals_of_trials_only() -> None:
    names = below("sweeper.evidence")
    assert len(names) >= 10
    libraries = set().union(*(roots(outside(name)) for name in names)) - sys.stdlib_module_names
    assert libraries == {"numpy", "scipy"}
    known = {target for name in names for target in GRAPH[name]}
    assert {target for target in known if not target.startswith("sweeper.evidence")} == {
        "trainables.confidence"
    }


def test_few_know_the_space_file() -> None:
    allowed = ("sweeper.commands.", "sweeper.spec.space_file")
    single = {
        "sweeper.machines.plan",
        "sweeper.machines.jobs",
        "sweeper.notebook",
        "sweeper.spec.schema",
        "sweeper.steering.changes",
    }
    users = {
        name
        for name, targets in GRAPH.items()
        if any(t.startswith("sweeper.spec.space_file") for t in targets)
    }
    assert single <= users, "the imports were not found"
    assert {name for name in users - single if not name.startswith(allowed)} == set()


LIBRARIES = {
    "ray": (
        "sweeper.trial",
        "sweeper.machines",
        "sweeper.search",
        "sweeper.steering",
        "sweeper.driver",
        "sweeper.finalists",
    ),
    "optuna": ("sweeper.search", "sweeper.report.sweep"),
    "plotly": ("sweeper.report.sweep",),
    "mlflow": ("sweeper.tracking", "sweeper.publication.mlflow_"),
    "rich": ("sweeper.terminal", "sweeper.commands", "sweeper.driver"),
    "torch": ("trainables", "sweeper.publication.mlflow_policy"),  # it runs where MLflow loads a model
}
"""The rooms that may import a library; all others must do without it."""


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_in_its_rooms_only(library: str) -> None:
    users = {name for name in MODULES if library in roots(outside(name))}
    assert users, "the imports were not found"
    assert {name for name in users if not name.startswith(LIBRARIES[library])} == set()


PRIVATE: dict[str, set[str]] = {
    "ray": {"sweeper.trial.trainer", "sweeper.machines.ssh"},
    "optuna": set(),
}
"""The modules that may use private names of a library, which a new version may change."""


@pytest.mark.parametrize("library", PRIVATE)
def test_private_names_of_a_library_are_imported_in_one_place(library: str) -> None:
    users = set()
    for name, module in MODULES.items():
        for node in imports_in(module.tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == library:
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                parts = [
                    part for a in node.names if a.name.startswith(f"{library}.") for part in a.name.split(".")
                ]
            else:
                continue
            if any(part.startswith("_") for part in parts):
                users.add(name)
    assert users <= PRIVATE[library]
    assert library != "ray" or "sweeper.trial.trainer" in users, "the imports were not found"


def test_the_search_uses_public_names_of_optuna_only() -> None:
    searched = {name: module for name, module in MODULES.items() if name.startswith("sweeper.search.")}
    assert {"sweeper.search.study_file", "sweeper.search.suggester"} <= set(searched)
    private = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, module in searched.items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]
    assert private == []


def test_files_of_tests_have_different_names() -> None:
    """Pytest collects one of two with the same name, depending on which it imports first."""
    count = Counter(file.name for file in (ROOT / "tests").rglob("test_*.py"))
    assert count, "the walk did not find the tests"
    assert [name for name, files in count.items() if files > 1] == []
