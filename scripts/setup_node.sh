#!/bin/sh
# Make a machine a node of a cluster: install this checkout into a Python environment of its own, and write
# ~/.sweeper/environment.sh, which whoever starts Ray or sweeper there sources. Run it again as often as you like:
# what is done is not done twice.
#
# Usage: setup_node.sh [--python PYTHON] [--into FOLDER | --into-python | --ready] [--with PACKAGE]
#                      [--sweeps FOLDER] [--cache FOLDER]
#
#   --python PYTHON  the interpreter; python3 by default. All nodes need the same one, to the patch level.
#   --into FOLDER    the virtual environment, created if missing; ~/.sweeper/venv by default
#   --into-python    install into PYTHON's own environment: that of a container image
#   --ready          install nothing: PYTHON's environment has the packages already (a lab's shared folder)
#   --with PACKAGE   install this one too, e.g. boto3 for the autoscaler on AWS
#   --sweeps FOLDER  where sweeps lie: the same path on every machine, on a file system that they share
#   --cache FOLDER   for decoded frames: on the machine's own disk, which is fast
set -eu
source=$(cd "$(dirname "$0")/.." && pwd)
state=$HOME/.sweeper
python=python3
into=$state/venv
mode=venv
with=""
sweeps=$HOME/sweeps
cache=$HOME/.cache/diffusion-policy-sweeper
while [ $# -gt 0 ]; do
    case $1 in
        --python) python=$2; shift 2 ;;
        --into) into=$2; shift 2 ;;
        --into-python) mode=python; shift ;;
        --ready) mode=ready; shift ;;
        --with) with=$2; shift 2 ;;
        --sweeps) sweeps=$2; shift 2 ;;
        --cache) cache=$2; shift 2 ;;
        *) echo "setup_node.sh: unknown argument $1; see the top of the script" >&2; exit 2 ;;
    esac
done

sh "$source/scripts/prepare_system.sh" "$python"
mkdir -p "$state"
if [ ! -w "$source" ]; then
    # Folders that Docker made for what is mounted into them are root's, and an installation writes beside the code.
    rm -rf "$state/source.new"
    mkdir "$state/source.new"
    cp -R "$source/." "$state/source.new/"
    rm -rf "$state/source"
    mv "$state/source.new" "$state/source"
    source=$state/source
fi
base=$(command -v "$python")
if [ "$mode" = venv ]; then
    python=$into/bin/python
else
    python=$base
fi

if [ "$mode" = ready ]; then
    "$python" - "$source/constraints.txt" <<'PYTHON'
import importlib.metadata
import sys

wanted = dict(line.strip().split("==") for line in open(sys.argv[1]) if "==" in line and line[0] != "#")
wrong = []
for name in ("ray", "torch", "torchvision", "diffusers", "optuna", "mlflow", "numpy"):
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = "missing"
    # What stands behind a plus says for which hardware it was built.
    if found.partition("+")[0] != wanted[name]:
        wrong.append(f"{name} is {found}, constraints.txt says {wanted[name]}")
if wrong:
    sys.exit(f"--ready: {sys.executable} lacks what this project is tested with: " + "; ".join(wrong))
PYTHON
else
    # A change of the code needs no new installation, because it is editable. A change of packages does.
    stamp=$state/installed
    now="$source $python $with $(cat "$source/pyproject.toml" "$source/constraints.txt" "$source/setup.py" | cksum)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || ! "$python" -c 'import ray, sweeper' 2>/dev/null; then
        rm -f "$stamp"
        # All modules are compiled: an image, or a folder that all machines share, may be read-only later.
        if [ "$mode" = venv ]; then set -- --into "$into" --compile; else set -- --compile; fi
        # shellcheck disable=SC2086  # perhaps no package at all
        "$base" "$source/scripts/install.py" "$@" ".[pusht,samplers]" $with
        echo "$now" >"$stamp"
    fi
fi
bin=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')

{
    echo "# Written by $source/scripts/setup_node.sh; what you add belongs into ~/.sweeper/local.sh"
    echo "export PATH='$bin':\"\$PATH\""
    # Whatever is there already stays: Ray names the code that came with a job there, and starts login shells.
    [ "$mode" != ready ] || echo "export PYTHONPATH='$source'\"\${PYTHONPATH:+:\$PYTHONPATH}\""
    echo "export SWEEPER_SWEEPS='$sweeps' SWEEPER_CACHE='$cache'"
    # Nothing about a cluster is told to anybody; nothing may pick another Python for workers.
    echo "export RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0"
    # Whoever talks to Ray needs the token that all nodes share.
    echo "[ ! -f ~/.ray/auth_token ] || export RAY_AUTH_MODE=token"
    # Only the head serves MLflow: the driver of a sweep, which runs there, is the one process that writes to it.
    echo "[ ! -f ~/.sweeper/mlflow/address ] || export MLFLOW_TRACKING_URI=\"\$(cat ~/.sweeper/mlflow/address)\""
    echo "[ ! -f ~/.sweeper/local.sh ] || . ~/.sweeper/local.sh"
} >"$state/environment.sh.new"
mv "$state/environment.sh.new" "$state/environment.sh"
# `ray down` and `ray exec` call `ray` in a login shell, without a word of ours before it.
line='[ ! -f ~/.sweeper/environment.sh ] || . ~/.sweeper/environment.sh'
grep -qxF "$line" "$HOME/.bashrc" 2>/dev/null || echo "$line" >>"$HOME/.bashrc"
[ ! -f "$HOME/.ray/auth_token" ] || chmod 600 "$HOME/.ray/auth_token" || true
# While an image is built, neither is there yet; `sweeper doctor` says where they are missing later.
for folder in "$sweeps" "$cache"; do
    mkdir -p "$folder" || echo "setup_node.sh: $folder cannot be made: is it mounted?" >&2
done
echo "node ready: $("$python" -c 'import platform, ray; print("Python", platform.python_version(), "Ray", ray.__version__)')"
