#!/bin/sh
# MLflow's server on the head of a cluster: started, kept running, stopped. It listens on 127.0.0.1 alone; its
# database and artifacts lie in ~/.sweeper/mlflow (or --folder), so that nothing is lost when it, Ray or the machine
# starts anew. Where the server dies it is started again within seconds. After a reboot of the machine `ray up`
# starts it, or systemd where docs/clusters/sweeper-mlflow.service is installed.
#
# Usage: mlflow_service.sh start|run|stop|status [--port PORT] [--folder FOLDER] [--database URI]
#
#   --database URI   e.g. postgresql://mlflow:PASSWORD@127.0.0.1/mlflow (the environment needs psycopg[binary]); a
#                    SQLite file in the folder by default. Kept for the next start; `--database sqlite` goes back.
set -eu
action=${1:?start, run, stop or status}
shift
port=5000
folder=""
database=""
while [ $# -gt 0 ]; do
    case $1 in
        --port) port=$2; shift 2 ;;
        --folder) folder=$2; shift 2 ;;
        --database) database=$2; shift 2 ;;
        *) echo "mlflow_service.sh: unknown argument $1; see the top of the script" >&2; exit 2 ;;
    esac
done
state=$HOME/.sweeper/mlflow
mkdir -p "$state"
# shellcheck disable=SC1091  # written by setup_node.sh
. "$HOME/.sweeper/environment.sh"
folder=${folder:-$(cat "$state/folder" 2>/dev/null || echo "$state")}
address=http://127.0.0.1:$port

running() {
    pid=$(cat "$state/pid" 2>/dev/null) && [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null &&
        tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q mlflow_service.sh
}

answers() {
    python -c "import urllib.request; urllib.request.urlopen('$address/health', timeout=2)" 2>/dev/null
}

# The server has workers, and a worker that outlived it would keep the port: they all go.
end_server() {
    kill -s TERM -- "-$server" 2>/dev/null || return 0
    for _ in 1 2 3 4 5; do
        kill -s 0 -- "-$server" 2>/dev/null || return 0
        sleep 1
    done
    kill -s KILL -- "-$server" 2>/dev/null || true
}

halt() {
    if running; then
        kill -s TERM "$pid"
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            kill -s 0 "$pid" 2>/dev/null || break
            sleep 1
        done
    fi
    rm -f "$state/pid"
}

case $action in
    start)
        mkdir -p "$folder/artifacts"
        echo "$folder" >"$state/folder"
        if [ "$database" = sqlite ]; then
            rm -f "$state/database"
        elif [ -n "$database" ]; then
            # It may hold a password.
            (umask 077 && echo "$database" >"$state/database")
        fi
        if ! running; then
            mv -f "$state/service.log" "$state/service.log.1" 2>/dev/null || true
            setsid nohup sh "$0" run --port "$port" --folder "$folder" >>"$state/service.log" 2>&1 </dev/null &
            echo $! >"$state/pid"
        fi
        # Its first start makes the tables: a minute on a small machine.
        for _ in $(seq 1 90); do
            if answers; then
                echo "$address" >"$state/address"
                echo "MLflow: $address, runs in $folder"
                exit 0
            fi
            [ "$(grep -c 'MLflow ended' "$state/service.log")" -lt 2 ] || break
            sleep 2
        done
        echo "mlflow_service.sh: MLflow does not answer at $address; its log, $state/service.log, ends:" >&2
        tail -n 3 "$state/service.log" >&2
        halt
        exit 1
        ;;
    run)
        export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
        # Read from the environment, where no list of processes shows a password.
        MLFLOW_BACKEND_STORE_URI=$(cat "$state/database" 2>/dev/null || echo "sqlite:///$folder/mlflow.db")
        export MLFLOW_BACKEND_STORE_URI
        trap 'end_server; exit 0' TERM INT
        while :; do
            echo "$(date -u +%FT%TZ) MLflow starts on port $port"
            setsid python -m mlflow server --host 127.0.0.1 --port "$port" --workers 2 \
                --artifacts-destination "$folder/artifacts" &
            server=$!
            wait "$server" || echo "$(date -u +%FT%TZ) MLflow ended: $?"
            end_server
            sleep 3
        done
        ;;
    stop)
        halt
        rm -f "$state/address"
        ;;
    status)
        if running && answers; then
            echo "MLflow: $address, runs in $folder"
        else
            echo "MLflow is not running" >&2
            exit 1
        fi
        ;;
    *) echo "mlflow_service.sh: unknown action $action" >&2; exit 2 ;;
esac
