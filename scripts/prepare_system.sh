#!/bin/sh
# Make sure that the system has what pip cannot install: Python's venv module, and the two libraries that the
# simulator's image package links. Installs them if it may (root, apt-get), or else prints what to do.
# Usage: prepare_system.sh PYTHON
set -eu
python=$1

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1). Try: make PYTHON=python3.11" >&2
    exit 2
}
"$python" -c 'import sys; sys.exit(sys.version_info >= (3, 14))' ||
    echo "$("$python" --version 2>&1) is not tested. If this fails: make PYTHON=python3.13 (or 3.12, 3.11)" >&2

missing=""
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    missing="$missing $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
has_library() {
    "$python" -c "import ctypes; ctypes.CDLL('$1')" 2>/dev/null
}
if [ "$(uname -s)" = Linux ]; then
    has_library libGL.so.1 || missing="$missing libgl1"
    has_library libgthread-2.0.so.0 || missing="$missing libglib2.0-0"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing system packages:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "These system packages are missing:$missing" >&2
    echo "Install them, then run make again:  sudo apt-get install$missing" >&2
    exit 2
fi
