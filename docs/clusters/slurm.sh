#!/bin/bash
# A sweep as one job of Slurm: starts Ray on the job's machines, runs the sweep on the first one, and ends.
#
#   sbatch docs/clusters/slurm.sh SPACE.yaml [KEY=VALUE ...]
#   sweeper status            # on any machine that sees SWEEPS; also watch, logs, results, stop, ui
#
# Before the first time, on a login node: sh scripts/setup_node.sh --python python3.11 --into FOLDER/venv
# A job that reached its time limit continues when it is submitted again: finished trials are not run again, the others
# continue from their checkpoints. Slurm sends SIGTERM GRACE seconds before, which ends the sweep in order.
#
#SBATCH --job-name=sweep
#SBATCH --nodes=2                # LOOK: machines
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4        # LOOK: GPUs of each
#SBATCH --cpus-per-task=32       # LOOK: CPUs of each
#SBATCH --mem=0
#SBATCH --time=24:00:00          # LOOK
#SBATCH --signal=B:TERM@300
#SBATCH --output=sweep-%j.log
#SBATCH --requeue
set -euo pipefail

ENVIRONMENT=$HOME/.sweeper/environment.sh   # CHANGE, if setup_node.sh ran under another account
export SWEEPS=${SWEEPS:-$HOME/sweeps}       # CHANGE: on a file system that all machines share
# LOOK: decoded frames, on the machine's own disk.
export CACHE=${CACHE:-/tmp/$USER-frames}

# shellcheck disable=SC1090
source "$ENVIRONMENT"
export SWEEPER_SWEEPS=$SWEEPS SWEEPER_CACHE=$CACHE
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}

# Other users share the machines: a token for this job only, and ports that no other job of the same user has.
umask 077
RAY_AUTH_TOKEN_PATH=$HOME/.sweeper/token-$SLURM_JOB_ID
python -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH
port=$((20000 + SLURM_JOB_ID % 10000))
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
temporary=/tmp/ray-$SLURM_JOB_ID

srun --nodes=1 --ntasks=1 --nodelist="$head" --export=ALL \
    ray start --head --block --node-ip-address="$address" --port="$port" --temp-dir="$temporary" \
    --num-cpus="$cpus" --num-gpus="$gpus" --resources='{"sweep_driver": 64}' \
    --dashboard-host=127.0.0.1 --dashboard-port=$((port + 1)) --ray-client-server-port=$((port + 2)) \
    --object-store-memory=500000000 >"ray-$SLURM_JOB_ID.log" 2>&1 &
servers=$!
trap 'kill "$servers" 2>/dev/null || true; wait || true; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
for _ in $(seq 1 60); do
    ray status --address "$address:$port" >/dev/null 2>&1 && break
    kill -0 "$servers" || { cat "ray-$SLURM_JOB_ID.log" >&2; exit 1; }
    sleep 2
done
others=$((SLURM_JOB_NUM_NODES - 1))
if [ "$others" -gt 0 ]; then
    srun --nodes="$others" --ntasks="$others" --exclude="$head" --export=ALL \
        ray start --block --address="$address:$port" --num-cpus="$cpus" --num-gpus="$gpus" \
        --resources="{\"sweep_driver\": $gpus}" --object-store-memory=500000000 >>"ray-$SLURM_JOB_ID.log" 2>&1 &
    servers="$servers $!"
    trap 'kill $servers 2>/dev/null || true; wait || true; rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
    for _ in $(seq 1 60); do
        [ "$(ray status --address "$address:$port" 2>/dev/null | grep -c ' 1 node_')" -ge "$SLURM_JOB_NUM_NODES" ] && break
        sleep 2
    done
fi

# The batch script receives the signal and must pass it on to the sweep.
sweeper launch "$@" --address "$address:$port" &
sweep=$!
trap 'kill -TERM "$sweep"' TERM
status=0
wait "$sweep" || status=$?
# Interrupted by the signal: wait until it has ended in order.
kill -0 "$sweep" 2>/dev/null && { wait "$sweep" || status=$?; }
exit "$status"
