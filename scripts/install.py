"""Install this checkout, and what it needs, in the versions of constraints.txt.

    python scripts/install.py [--into FOLDER] [--compile] [REQUIREMENT ...]

    --into FOLDER  a virtual environment, created if missing; default: the environment of this Python
    --compile      compile all modules now, not when they are first imported
    REQUIREMENT    as for pip: ".[pusht]" is this checkout, installed editable; default: "."

uv installs: the uv on the PATH, or else one that pip puts into the environment first. uv does not read pip's
configuration, so the indexes and folders set there are passed to it. If uv fails, pip installs.

An installation that was interrupted may leave half a package, which both tools take for a whole one. The file
``.installing`` marks it, and the next run installs all packages again.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PASSED_TO_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "no-index": "UV_NO_INDEX",
    "cert": "SSL_CERT_FILE",
}
UV_INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL")


def main() -> int:
    """Install; the exit code."""
    parser = argparse.ArgumentParser(description="Install this checkout in the versions of constraints.txt.")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="a virtual environment")
    parser.add_argument("--compile", action="store_true", help="compile all modules now")
    parser.add_argument("requirements", nargs="*", default=["."], metavar="REQUIREMENT")
    arguments = parser.parse_args()
    prefix = Path(sys.prefix) if arguments.into is None else arguments.into.absolute()
    marker = prefix / ".installing"
    interrupted = marker.exists()
    prefix.mkdir(parents=True, exist_ok=True)
    if arguments.into is None:
        python = sys.executable
        with contextlib.suppress(PermissionError):  # pip then installs for this user only
            marker.touch()
    else:
        python = environment(prefix, marker)
    # Python never compiles what it imports if this is set, and each of Ray's processes would do so in vain.
    compiled = arguments.compile or bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    code = install(python, arguments.requirements, again=interrupted, compiled=compiled)
    if code == 0:
        marker.unlink(missing_ok=True)
    return code


def environment(folder: Path, marker: Path) -> str:
    """The Python of the virtual environment in a folder, which is created if it has no working pip."""
    python = str(folder / "bin" / "python")
    if runs(python, "-c", "import pip"):
        marker.touch()
        return python
    others = [path for path in folder.iterdir() if path != marker]
    if others and not marker.exists() and not (folder / "pyvenv.cfg").exists():
        sys.exit(f"{folder} is not empty and not a virtual environment. Delete it or choose another folder.")
    marker.touch()
    for path in others:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    venv.create(folder, with_pip=True, symlinks=True)
    return python


def install(python: str, requirements: list[str], *, again: bool, compiled: bool) -> int:
    """Install with uv, and with pip if uv fails; the exit code."""
    command = ["install", "--quiet", "--constraint", "constraints.txt"]
    for requirement in requirements:
        command += ["--editable", requirement] if requirement.startswith(".") else [requirement]
    uv = ["uv"]
    if not runs("uv", "--version"):
        uv = [python, "-m", "uv"]
        pip = [python, "-m", "pip", "install", "--quiet", "--constraint", "constraints.txt", "uv"]
        if run(pip) != 0:
            uv = []
    if uv:
        options = ["--python", python, *["--reinstall"] * again, *["--compile-bytecode"] * compiled]
        if run([*uv, "pip", *command, *options], from_pip(pip_settings(python), os.environ)) == 0:
            return 0
        print("uv failed, see above. Now pip installs, which takes minutes.", file=sys.stderr, flush=True)
    return run([python, "-m", "pip", *command, *["--force-reinstall"] * again])


def run(command: list[str], variables: Mapping[str, str] | None = None) -> int:
    """Run a command at the top of the checkout; its exit code."""
    return subprocess.run(command, check=False, cwd=ROOT, env={**os.environ, **(variables or {})}).returncode


def pip_settings(python: str) -> list[str]:
    """Lines of `pip config list`: ``global.index-url='https://...'``; none if there is no pip."""
    listed = subprocess.run(
        [python, "-m", "pip", "config", "list"], check=False, capture_output=True, text=True
    )
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def from_pip(lines: list[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that make uv look where pip looks, unless uv has a setting of its own."""
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # the later ones override the earlier ones
        for line in lines:
            name, _, value = line.partition("=")
            option = name.removeprefix(f"{section}.")
            if option != name and option in PASSED_TO_UV:
                separator = "," if option == "find-links" else " "
                found[option] = separator.join(str(ast.literal_eval(value)).split())
    if any(name in environ for name in UV_INDEXES):
        found = {option: value for option, value in found.items() if PASSED_TO_UV[option] not in UV_INDEXES}
    variables = {PASSED_TO_UV[option]: value for option, value in found.items()}
    if "UV_INDEX" in variables:
        # pip takes the best version of all indexes, uv that of the first index that has the package.
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in variables.items() if name not in environ}


def runs(*command: str) -> bool:
    """Whether a command can be run and succeeds."""
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())
