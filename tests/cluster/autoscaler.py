"""The autoscaler for real, on one machine: machines start for a sweep, and stop when it has ended.

    sudo .venv/bin/python tests/cluster/autoscaler.py

Ray's fake provider starts raylets of this machine as nodes. A head without CPUs, a kind of machine with one
CPU, at most two of them. Runs in namespaces of its own; ends with 0 where everything held, with 77 where this
machine cannot make them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hosts import enter, lacking

ROOT = Path(__file__).resolve().parent.parent.parent
HEAD_ID = "f" * 51 + "00000"
MOST = 2
PORT = 6379
SPACE = """
name: scaled
trainable: small_trainable:TRAINABLE
config: {train.steps: 60, pause_s: 0.5}
parameters:
  optimizer.lr: {min: 0.01, max: 0.1, log: true}
metric: {name: train/loss, goal: minimize}
search: {method: random}
budget: {trials: 4}
resources: {cpu_per_worker: 1}
"""
DEFAULTS = {
    "docker": {},
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    "cluster_synced_files": [],
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


def cluster(idle_minutes: float) -> dict[str, Any]:
    """A cluster file for the fake provider."""
    return {
        "cluster_name": "scaled",
        "max_workers": MOST,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": HEAD_ID,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {
                "resources": {"CPU": 0, "sweep_driver": 4},
                "node_config": {},
                "max_workers": 0,
            },
            "small": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST},
        },
    }


def prepare(work: Path) -> None:
    """Own temporary folders, and the default file of the fake provider, which Ray's wheels lack."""
    run = subprocess.check_call
    run(["mount", "--make-rprivate", "/"])
    run(["ip", "link", "set", "lo", "up"])
    for folder in ("/tmp/ray", "/dev/shm"):
        Path(folder).mkdir(exist_ok=True)
        run(["mount", "-t", "tmpfs", "tmpfs", folder])
    import ray

    provider = Path(ray.__file__).parent / "autoscaler" / "_private" / "fake_multi_node"
    copy = work / "fake_multi_node"
    shutil.copytree(provider, copy)
    (copy / "example.yaml").write_text(yaml.safe_dump(cluster(1.0) | DEFAULTS))
    run(["mount", "--bind", str(copy), str(provider)])


def environment(work: Path, file: Path) -> dict[str, str]:
    """What Ray and the sweep are started with."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    return kept | {
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "HOME": str(work),
        "PYTHONPATH": str(ROOT / "tests" / "sweeper"),
        "OMP_NUM_THREADS": "1",
        "SWEEPER_CLUSTER_FILE": str(file),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        "RAY_raylet_start_wait_time_s": "300",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    }


class Watch:
    """The numbers of workers that were seen, each when it first differed from the one before."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self._began = time.monotonic()

    def look(self) -> int:
        import ray

        workers = sum(1 for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU"))
        if not self.seen or self.seen[-1] != workers:
            self.seen.append(workers)
            print(f"[{time.monotonic() - self._began:5.0f} s] {workers} workers", flush=True)
        return workers

    def until(self, condition: Callable[[int], bool], limit_s: float) -> bool:
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if condition(self.look()):
                return True
            time.sleep(1)
        return False


@contextlib.contextmanager
def head(work: Path, variables: dict[str, str], file: Path) -> Iterator[None]:
    """The head of the cluster, with its autoscaler."""
    start = [
        *("ray", "start", "--head", f"--port={PORT}", f"--autoscaling-config={file}", "--num-cpus=0"),
        *('--resources={"sweep_driver": 4}', "--object-store-memory=100000000", "--include-dashboard=false"),
    ]
    subprocess.run(start, check=True, env=variables, stdout=(work / "head.log").open("w"))
    try:
        yield
    finally:
        # In these namespaces there is no other Ray.
        subprocess.run(["ray", "stop", "--force"], env=variables, capture_output=True)


def main() -> int:
    """Run everything; the exit code."""
    missing = lacking()
    if missing:
        print(f"This machine cannot make namespaces: {', '.join(missing)} missing.")
        return 77
    inside = os.environ.get("SWEEPER_TEST_HOSTS")
    with contextlib.ExitStack() as stack:
        folder = inside or stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-scaled-"))
        enter(Path(folder))
        return try_scaling(Path(folder))


def try_scaling(work: Path) -> int:
    """Launch a sweep, and watch machines come and go."""
    prepare(work)
    file = work / "cluster.yaml"
    file.write_text(yaml.safe_dump(cluster(0.2)))
    (work / "space.yaml").write_text(SPACE)
    variables = environment(work, file)
    failed = 0

    def hold(what: str, holds: bool, seen: object = "") -> None:
        nonlocal failed
        failed += not holds
        print(f"{'ok    ' if holds else 'FAILED'} {what}: {seen}", flush=True)

    with head(work, variables, file):
        import ray

        os.environ |= variables
        ray.init(f"127.0.0.1:{PORT}", log_to_driver=False, logging_level="ERROR")
        watch = Watch()
        hold("no machine before a sweep", watch.look() == 0, watch.seen)
        launch = ["sweeper", "launch", str(work / "space.yaml"), "--address", f"127.0.0.1:{PORT}"]
        sweeps = ["--sweeps", str(work / "sweeps")]
        too_large = [*launch, *sweeps, "resources.cpu_per_worker=2", "name=large"]
        refused = subprocess.run(too_large, env=variables, capture_output=True, text=True, timeout=300)
        said = refused.stderr.strip().splitlines()[-1:] or refused.stdout.splitlines()[-1:]
        hold("a worker that fits on no machine is refused", refused.returncode == 2, said)
        with (work / "sweep.log").open("w") as log:
            sweep = subprocess.Popen([*launch, *sweeps], env=variables, stdout=log, stderr=log)
            came = watch.until(lambda workers: workers == MOST or sweep.poll() is not None, 300)
            hold("machines come for the sweep", came and MOST in watch.seen, watch.seen)
            code = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                watch.until(lambda _: sweep.poll() is not None, 600)
                code = sweep.wait(1)
        if code is None:
            sweep.send_signal(signal.SIGKILL)
        results = ["sweeper", "results", "scaled", "--json", *sweeps]
        found = json.loads(subprocess.run(results, env=variables, capture_output=True, text=True).stdout)
        states = [trial["status"] for trial in found["trials"]]
        hold("the sweep ends with every trial", code == 0 and states == ["completed"] * 4, (code, states))
        hold("they are stopped when it has ended", watch.until(lambda workers: workers == 0, 240), watch.seen)
        hold("never more than the limit", max(watch.seen) <= MOST, max(watch.seen))
        ray.shutdown()
    print(f"{failed} of the steps failed" if failed else "all steps held")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
