#!/bin/sh
# Collect the wheels that trainables/ and benchmarks/gpu need on a machine with a GPU that cannot reach a package
# index: for CPython 3.12 on Linux x86-64, in the versions of constraints.txt, at most 64 MB together.
# The machine itself has torch and torchvision, and what images for GPUs usually bring: numpy, pyarrow, pillow,
# safetensors, huggingface_hub, opencv, scipy, regex, requests, filelock, fsspec, pyyaml, rich, psutil, pytest,
# pytest-timeout. Name those that it lacks.
# Usage: sh scripts/collect_gpu_wheels.sh [--lerobot] [--folder FOLDER] [NAME ...]
# PYTHON names a Python with pip (python3). Afterwards, on the machine, one of
#     pip install --no-index --no-deps FOLDER/*.whl
#     pip install --no-index --no-deps --target site FOLDER/*.whl && export PYTHONPATH=$PWD/site
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$root/build/gpu-wheels
limit_mb=64
# The simulator is gym-pusht with gymnasium, pymunk, pygame and shapely; the others belong to these.
packages="diffusers av gymnasium Farama-Notifications gym-pusht pymunk cffi pycparser pygame shapely"
# LeRobot's policy needs these packages of all that LeRobot asks for; it wants einops and typing-inspect, too.
lerobot="lerobot==0.6.1 draccus==0.11.6 mergedeep==1.3.4 toml==0.10.2 termcolor==3.3.0"

while [ $# -gt 0 ]; do
    case $1 in
        --lerobot) packages="$packages $lerobot" ;;
        --folder) folder=$2; shift ;;
        -*) sed -n 's/^# Usage: /usage: /p' "$0" >&2; exit 2 ;;
        *) packages="$packages $1" ;;
    esac
    shift
done

rm -rf "$folder"
# pip takes a wheel only if one of these names is its own.
platforms=""
for version in manylinux1 manylinux2010 manylinux2014 manylinux_2_17 manylinux_2_24 manylinux_2_27 manylinux_2_28; do
    platforms="$platforms --platform ${version}_x86_64"
done
# shellcheck disable=SC2086  # lists
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    $platforms --constraint "$root/constraints.txt" --dest "$folder" $packages

ls -l "$folder" | awk 'NR > 1 { printf "%8.1f MB  %s\n", $5 / 1e6, $NF }'
bytes=$(cat "$folder"/*.whl | wc -c)
awk -v bytes="$bytes" -v limit="$limit_mb" -v folder="$folder" 'BEGIN {
    printf "%8.1f MB  in all, in %s\n", bytes / 1e6, folder
    if (bytes > limit * 1e6) { printf "That is more than %d MB.\n", limit; exit 1 }
}'
