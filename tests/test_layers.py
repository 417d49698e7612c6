"""The layers: what may import what, and what a quick command must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

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
}
SERVICE = {"ray", "optuna", "mlflow", "sweeper"}
STDLIB_ONLY = (
    "addresses.py",
    "files.py",
    "interface.py",
    "ranges.py",
    "registry.py",
    "features.py",
    "diffusion_policy/__init__.py",
    "diffusion_policy/config/clashes.py",
    "diffusion_policy/config/diffusion_config.py",
    "diffusion_policy/pretrained/lerobot_config.py",
    "diffusion_policy/finetuning/starting_point.py",
    "diffusion_policy/finetuning/compatibility.py",
    "diffusion_policy/pretrained/read_config.py",
    "diffusion_policy/pretrained/lerobot_processors.py",
    "diffusion_policy/config/sections.py",
    "diffusion_policy/network/shapes.py",
    "diffusion_policy/finetuning/resolve.py",
    "diffusion_policy/pretrained/find.py",
    "diffusion_policy/pretrained/pretrained_config.py",
    "diffusion_policy/trainable.py",
)


def imported(path: Path, *, everywhere: bool = True) -> set[str]:
    """Modules that a file imports; with ``everywhere`` also inside functions."""
    tree = ast.parse(path.read_text(), str(path))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_the_learning_core_does_not_know_the_service() -> None:
    files = sorted((ROOT / "trainables").rglob("*.py"))
    assert len(files) >= 20, "the walk did not find the package"
    guilty = {str(file.relative_to(ROOT)): roots(imported(file)) & SERVICE for file in files}
    assert {file: names for file, names in guilty.items() if names} == {}


def test_the_service_knows_trainables_only_through_the_interface() -> None:
    files = sorted((ROOT / "sweeper").rglob("*.py"))
    assert len(files) >= 10, "the walk did not find the package"
    allowed = {"trainables", "trainables.interface", "trainables.registry"}
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
    for arguments in (["--help"], ["check", str(ROOT / "search_spaces" / "pusht_state.yaml")]):
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
