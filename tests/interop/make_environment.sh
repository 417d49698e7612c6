#!/bin/sh
# Make the virtual environment in which a version of LeRobot runs beside ours: .interop/venv-VERSION, about 9 GB.
# Does nothing if it is there already. Usage: tests/interop/make_environment.sh VERSION [PYTHON]
# VERSION is 0.4.4, which needs Python 3.11, or 0.6.1, which needs Python 3.12.
set -eu
version=${1:?"usage: $0 VERSION [PYTHON]"}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv=$root/.interop/venv-$version
pinned=$here/requirements-$version.txt
stamp=$venv/.requirements.txt
case $version in
    0.4.4) wanted=3.11 ;;
    0.6.1) wanted=3.12 ;;
    *) echo "LeRobot $version is not among those that are compared: 0.4.4, 0.6.1." >&2; exit 2 ;;
esac
python=${2:-python$wanted}

if cmp -s "$pinned" "$stamp"; then
    echo "$venv is ready."
    exit 0
fi

is_wanted() {
    "$1" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$wanted')" 2>/dev/null
}
if ! is_wanted "$python"; then
    # uv finds Pythons that are not on the PATH.
    python=$(uv python find "$wanted" 2>/dev/null || true)
    # Those of pyenv are behind commands that fail unless a version has been chosen.
    for one in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$wanted".*/bin/python; do
        if is_wanted "$one" && ! is_wanted "$python"; then python=$one; fi
    done
    is_wanted "$python" || {
        echo "The versions for LeRobot $version are pinned for Python $wanted, which was not found." >&2
        echo "Try: $0 $version /path/to/python$wanted" >&2
        exit 2
    }
fi
sh "$root/scripts/prepare_system.sh" "$python"
# Made again from nothing, so that nothing of an older environment or of a broken download stays.
rm -rf "$venv"
"$python" -m venv "$venv"
if command -v uv >/dev/null; then
    uv pip install --quiet --python "$venv/bin/python" --requirement "$pinned"
else
    "$venv/bin/python" -m pip install --quiet --requirement "$pinned"
fi
"$venv/bin/python" -c 'import av, gym_pusht, lerobot'
cp "$pinned" "$stamp"
echo "$venv is ready."
