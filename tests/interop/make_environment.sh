#!/bin/sh
# Make the virtual environment in which LeRobot 0.4.4 runs beside ours: .interop/venv, about 9 GB.
# Does nothing where it is there already. Usage: tests/interop/make_environment.sh [PYTHON]
set -eu
python=${1:-python3}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.interop/venv
stamp=$venv/.requirements.txt

if cmp -s "$here/requirements.txt" "$stamp"; then
    echo "$venv is ready."
    exit 0
fi

"$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "The versions are pinned for Python 3.11; $python is $("$python" --version 2>&1)." >&2
    echo "Try: $0 python3.11" >&2
    exit 2
}
sh "$root/scripts/prepare_system.sh" "$python"
# Made anew, so that nothing of an older environment or of a broken download stays.
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --requirement "$here/requirements.txt"
"$venv/bin/python" -c 'import gym_pusht, lerobot, torchvision; torchvision.io.VideoReader'
cp "$here/requirements.txt" "$stamp"
echo "$venv is ready."
