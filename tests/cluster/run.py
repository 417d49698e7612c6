"""A cluster for real, on one machine: `ray up` over SSH to hosts made of namespaces, and a sweep on it.

    sudo .venv/bin/python tests/cluster/run.py [--trials N | --brief] [--keep FOLDER]

The hosts are a head and two workers, set up by docs/clusters/on-premises.yaml with addresses put in. A sweep
is launched from outside; a worker is killed in the middle and another host added; jobs are sent, left, found
again and stopped. Every step is a line of the report; it ends with 0 where all of them held, with 77 where
this machine cannot make such hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import yaml
from hosts import NETWORK, Host, enter, lacking, make_network

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = ROOT / ".venv" / "bin"
CANNOT = 77
NAME = "cluster-sweep"


class Report:
    """What was done, how long it took, and whether it held."""

    def __init__(self) -> None:
        self.failed = 0
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.0f} s] {text}", flush=True)

    def hold(self, what: str, holds: bool, seen: object = "") -> None:
        """Tell whether something held."""
        self.failed += not holds
        self.say(f"{'ok    ' if holds else 'FAILED'} {what}" + (f": {seen}" if str(seen) else ""))

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.say(f"       {what} took {time.monotonic() - began:.0f} s")


class Laptop:
    """The machine that the cluster is used from."""

    def __init__(self, work: Path, file: Path) -> None:
        self._work = work
        self.file = file
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))},
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        self.environment.pop("SWEEPER_SWEEPS", None)

    def run(
        self, *command: str, log: str = "laptop.log", timeout_s: float = 600
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        with (self._work / log).open("a") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}{done.stderr}[{done.returncode}]\n")
        return done

    def sweeper(self, *arguments: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
        return self.run("sweeper", *arguments, "--cluster", str(self.file), timeout_s=timeout_s)

    def ssh(self, key: Path) -> list[str]:
        """How SSH is told to be quiet, and whose key it takes."""
        return ["-i", str(key), "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR"]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = ["sweeper", *arguments, "--cluster", str(self.file)]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A shell that starts this program in the background has it ignore Ctrl-C, and all that it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def status(self, name: str) -> dict[str, Any]:
        done = self.sweeper("results", name, "--json")
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {"trials": [], "status": "none"}


class ServerMemory(threading.Thread):
    """Watches how much memory Ray's server on the head takes: what leaks there ends a cluster after days."""

    LIMIT_MB = 1000

    def __init__(self, report: Report) -> None:
        super().__init__(daemon=True)
        self._report = report
        self.peak_mb = 0
        self.start()

    def run(self) -> None:
        while True:
            found = [
                p for p in psutil.process_iter(["name", "memory_info"]) if p.info["name"] == "gcs_server"
            ]
            for process in found:
                megabytes = process.info["memory_info"].rss // 2**20
                if megabytes >= 1.2 * self.peak_mb:
                    self.peak_mb = megabytes
                    self._report.say(f"       Ray's server takes {megabytes} MB")
            time.sleep(5)


def cluster_config(work: Path, key: Path, workers: list[Host]) -> dict[str, Any]:
    """The file for machines of one's own, with these hosts put in."""
    config = yaml.safe_load((ROOT / "docs" / "clusters" / "on-premises.yaml").read_text())
    config["provider"] |= {"head_ip": f"{NETWORK}.11", "worker_ips": [host.address for host in workers]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    config |= {"min_workers": len(workers), "max_workers": len(workers)}
    home = Path.home()
    config["file_mounts"] = {
        place.replace("~", str(home)): source.replace("~", str(home))
        for place, source in config["file_mounts"].items()
    }
    config["setup_commands"] = [
        # There is no way out of these hosts: the packages are there already.
        f"sh ~/diffusion-policy-sweeper/scripts/setup_node.sh --python {BIN}/python --ready "
        f"--sweeps {work}/shared/sweeps --cache ~/.cache/frames"
    ]
    for commands, more in (
        ("head_start_ray_commands", "--num-cpus=0"),
        ("worker_start_ray_commands", "--num-cpus=1"),
    ):
        config[commands] = [
            # All hosts share the processors of one machine, and are patient with each other.
            line.replace(
                "--object-store-memory=500000000", f"--object-store-memory=100000000 {more}"
            ).replace("ray start", "RAY_raylet_start_wait_time_s=300 ray start")
            for line in config[commands]
        ]
    return dict(config)


def until(condition: Callable[[], Any], limit_s: float, every_s: float = 2.0) -> Any:
    """Wait for something; what it is in the end."""
    end = time.monotonic() + limit_s
    while True:
        found = condition()
        if found or time.monotonic() > end:
            return found
        time.sleep(every_s)


def main() -> int:
    """Run everything; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--keep", type=Path, help="folder for logs and homes, instead of one that is deleted")
    parser.add_argument("--brief", action="store_true", help="up and down again, without a sweep")
    arguments = parser.parse_args()
    missing = lacking()
    if missing:
        print(f"This machine cannot make hosts: {', '.join(missing)} missing.")
        return CANNOT
    with contextlib.ExitStack() as stack:
        if os.environ.get("SWEEPER_TEST_HOSTS"):
            work = Path(os.environ["SWEEPER_TEST_HOSTS"])
        elif arguments.keep:
            work = arguments.keep.absolute()
            work.mkdir(parents=True)
        else:
            work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-hosts-")))
        enter(work)
        return try_everything(work, 0 if arguments.brief else arguments.trials)


def try_everything(work: Path, trials: int) -> int:
    """All steps, in order, or those that need no trial; the exit code."""
    report = Report()
    key = make_network(work)
    hosts = {number: Host(number, work).start() for number in (11, 12, 13)}
    file = work / "cluster.yaml"
    file.write_text(yaml.safe_dump(cluster_config(work, key, [hosts[12], hosts[13]])))
    laptop = Laptop(work, file)
    token = laptop.run("ray", "get-auth-token", "--generate").stdout.strip()
    report.hold("a token for the cluster", len(token) >= 32)
    with report.timed("ray up"):
        up = laptop.run("ray", "up", "--yes", str(file), log="ray-up.log")
    report.hold("ray up", up.returncode == 0)
    memory = ServerMemory(report)
    report.hold("a head and two workers", until(lambda: nodes(laptop) == 3, 400), f"{nodes(laptop)} nodes")
    examine(report, laptop)
    if trials:
        sweep(report, laptop, work, key, hosts, trials)
        pages(report, laptop, trials, work)
        export(report, laptop, work)
        extend(report, laptop, trials)
        jobs(report, laptop)
        data_parallel(report, laptop, work)
    report.hold("Ray's server stays small", memory.peak_mb < memory.LIMIT_MB, f"{memory.peak_mb} MB at most")
    down(report, laptop, key, hosts)
    report.say(f"{report.failed} of the steps failed" if report.failed else "all steps held")
    return int(report.failed > 0)


def nodes(laptop: Laptop) -> int:
    """Machines of the cluster that are up."""
    asked = laptop.run(
        "ray", "exec", str(laptop.file), ". ~/.sweeper/environment.sh; ray status", log="ray-status.log"
    )
    active = asked.stdout.partition("Active:")[2].partition("Pending:")[0]
    return sum(int(count) for count in re.findall(r"^ *(\d+) \S+", active, re.MULTILINE))


def examine(report: Report, laptop: Laptop) -> None:
    """The doctor finds nothing wrong, and the cluster is closed to those without the token."""
    doctor = laptop.sweeper("doctor", "--json")
    findings = json.loads(doctor.stdout or "[]")
    wrong = [finding for finding in findings if finding["level"] in ("error", "warning")]
    report.hold("sweeper doctor --cluster finds nothing wrong", doctor.returncode == 0 and not wrong, wrong)
    shared = [finding for finding in findings if finding["check"] == "store" and finding["level"] == "fine"]
    report.hold("every node reads what every node wrote", len(shared) == 3, len(shared))
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"http://{NETWORK}.11:8265/api/jobs/", timeout=5)
        report.hold("the dashboard cannot be reached from outside", False)
        return
    report.hold("the dashboard cannot be reached from outside", True)


def sweep(report: Report, laptop: Laptop, work: Path, key: Path, hosts: dict[int, Host], trials: int) -> None:
    """A sweep from outside; a worker is lost in the middle and another one added."""
    launched = laptop.sweeper(
        *("launch", "pusht_quick", f"budget.trials={trials}", "--name", NAME),
        *(
            "config.train.steps=300",
            "config.train.eval_every=100",
            "early_stop=null",
            "resources.cpu_per_worker=1",
        ),
    )
    report.hold(
        "sweeper launch --cluster sends a job", launched.returncode == 0, launched.stdout[-600:].strip()
    )
    begun = until(lambda: reported(laptop), 300)
    report.hold("two trials train on two machines at once", bool(begun), begun)
    victim = next((host for host in (hosts[12], hosts[13]) if trains(host, key)), hosts[12])
    report.say(f"       the power of {victim.name} is cut, where a trial trains: {trains(victim, key)}")
    victim.kill()
    added = Host(14, work).start()
    hosts[14] = added
    left = [host for number, host in hosts.items() if number != 11 and host is not victim]
    del hosts[int(victim.address.rpartition(".")[2])]
    laptop.file.write_text(yaml.safe_dump(cluster_config(work, key, left)))
    with report.timed("adding another host"):
        again = laptop.run("python", "scripts/add_node.py", str(laptop.file), added.address)
    report.hold(
        "another host is added while the sweep runs", again.returncode == 0, again.stderr[-300:].strip()
    )
    joined = until(lambda: any("raylet" in line for line in added.processes(key)) and nodes(laptop) == 3, 400)
    report.hold("it joins the cluster", bool(joined))
    used = until(lambda: trains(added, key) or ended_sweep(laptop), 600) and trains(added, key)
    report.hold("it trains trials", bool(used))
    ended = until(lambda: ended_sweep(laptop), 1200, 5.0)
    found = laptop.status(NAME)
    states = [trial["status"] for trial in found["trials"]]
    report.hold("the sweep ends by itself", bool(ended), f"{found['status']}: {found.get('message')}")
    report.hold("every trial is accounted for", states.count("completed") == trials, states)
    retried = {trial["trial"]: trial["retries"] for trial in found["trials"] if trial["retries"]}
    report.hold("the trial of the lost machine continued elsewhere", bool(retried), retried)


def reported(laptop: Laptop) -> list[int]:
    """Trials that run and have reported, where there are two of them at once."""
    trials = laptop.status(NAME)["trials"]
    running = [trial["trial"] for trial in trials if trial["status"] == "running" and trial["step"] > 0]
    return running if len(running) >= 2 else []


def ended_sweep(laptop: Laptop) -> bool:
    """Whether the sweep has ended."""
    return laptop.status(NAME)["status"] in ("done", "failed", "interrupted")


def trains(host: Host, key: Path) -> bool:
    """Whether a trial's worker runs on a host."""
    return any("RayTrainWorker" in line for line in host.processes(key))


def pages(report: Report, laptop: Laptop, trials: int, work: Path) -> None:
    """MLflow on the head, opened through the tunnel."""
    serving = laptop.start("ui", NAME, "--port", "5055")
    assert serving.stdout is not None
    line = serving.stdout.readline().strip()
    try:
        with urllib.request.urlopen("http://127.0.0.1:5055/health", timeout=10) as answer:
            report.hold("MLflow's pages come through the tunnel", answer.status == 200, line)
        runs = mlflow_runs("http://127.0.0.1:5055")
        report.hold("MLflow has a run for the sweep and one per trial", len(runs) == trials + 1, len(runs))
        if shutil.which("chromium"):
            picture = take_picture(laptop, work, runs)
            report.hold("a browser shows the trials side by side", picture > 20_000, f"{picture} bytes")
    except OSError as error:
        report.hold("MLflow's pages come through the tunnel", False, f"{line} {error}")
    finally:
        serving.send_signal(signal.SIGINT)
        serving.wait(30)


def take_picture(laptop: Laptop, work: Path, runs: list[Any]) -> int:
    """A picture of MLflow's comparison of the trials, by headless Chromium; its size in bytes."""
    runs = [run for run in runs if {"key": "sweep.kind", "value": "trial"} in run["data"]["tags"]]
    ids = json.dumps([run["info"]["run_id"] for run in runs])
    experiment = json.dumps([runs[0]["info"]["experiment_id"]])
    page = f"http://127.0.0.1:5055/#/compare-runs?runs={quote(ids)}&experiments={quote(experiment)}"
    picture = work / "comparison.png"
    quiet = [
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-gpu",
    ]
    laptop.run(
        *(
            "chromium",
            "--headless",
            "--no-sandbox",
            "--no-first-run",
            *quiet,
            f"--user-data-dir={work}/browser",
        ),
        *("--window-size=1500,1600", "--virtual-time-budget=20000", f"--screenshot={picture}", page),
        timeout_s=120,
    )
    return picture.stat().st_size if picture.exists() else 0


def mlflow_runs(server: str) -> list[Any]:
    """The runs of the sweep's experiment."""

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{server}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return dict(json.loads(answer.read()))

    experiments = post("experiments/search", {"max_results": 100})["experiments"]
    ids = [experiment["experiment_id"] for experiment in experiments]
    return list(post("runs/search", {"experiment_ids": ids, "max_results": 1000}).get("runs", []))


def export(report: Report, laptop: Laptop, work: Path) -> None:
    """The best policy, as LeRobot would have written it, brought to the laptop."""
    target = work / "best"
    done = laptop.sweeper("export", NAME, "--to", str(target))
    files = sorted(file.name for file in target.glob("*")) if target.is_dir() else []
    whole = {"config.json", "model.safetensors", "train_config.json"} <= set(files)
    report.hold("the best policy is exported to the laptop", done.returncode == 0 and whole, files)


def extend(report: Report, laptop: Laptop, trials: int) -> None:
    """A sweep that has ended is resumed from the laptop, with one more trial."""
    done = laptop.sweeper("resume", NAME, "budget.trials=+1")
    report.hold("sweeper resume --cluster sends a job", done.returncode == 0, done.stdout[-300:].strip())
    until(lambda: len(laptop.status(NAME)["trials"]) > trials and ended_sweep(laptop), 400, 5.0)
    found = laptop.status(NAME)
    states = [trial["status"] for trial in found["trials"]]
    report.hold("it ran one more trial", states.count("completed") == trials + 1, states)


def jobs(report: Report, laptop: Laptop) -> None:
    """Jobs: sent with code of one's own, left, found again, followed, stopped."""
    listed = json.loads(laptop.sweeper("jobs", "--json").stdout)
    states = [(job["sweep"], job["status"]) for job in listed]
    report.hold(
        "the sweep's two jobs are found again, ended well", states == 2 * [(NAME, "SUCCEEDED")], states
    )
    given = [laptop.environment["PYTHONPATH"]] if "PYTHONPATH" in laptop.environment else []
    laptop.environment["PYTHONPATH"] = os.pathsep.join([*given, str(ROOT / "tests" / "sweeper")])
    launched = laptop.sweeper("launch", str(Path(__file__).parent / "parabola.yaml"), "--json")
    job = json.loads(launched.stdout or "{}").get("job", "")
    report.hold("a sweep of a custom trainable is sent", launched.returncode == 0, job)
    running = until(lambda: steps(laptop, "parabola"), 240)
    report.hold("its module went with it: trials run", bool(running), running)
    following = laptop.start("jobs", job, "--follow")
    time.sleep(8)
    following.send_signal(signal.SIGINT)
    said = following.communicate(timeout=30)[0]
    report.hold(
        "its driver is followed, and Ctrl-C does not stop it", "parabola" in said, said[-200:].strip()
    )
    report.hold("it continues", laptop.status("parabola")["status"] == "running")
    with report.timed("sweeper jobs --stop"):
        stopped = laptop.sweeper("jobs", job, "--stop", "--json")
    until(lambda: laptop.status("parabola")["status"] != "running", 120)
    found = laptop.status("parabola")
    in_order = stopped.returncode == 0 and found["status"] == "interrupted"
    report.hold("it is stopped in order", in_order, found.get("message", ""))


def steps(laptop: Laptop, name: str) -> list[int]:
    """Steps that the trials of a sweep have reported."""
    return [trial["step"] for trial in laptop.status(name)["trials"] if trial["step"] > 0]


def data_parallel(report: Report, laptop: Laptop, work: Path) -> None:
    """The same trial with one worker and with two, on two machines: the same loss curve."""
    curves = {}
    for workers in (1, 2):
        name = f"workers-{workers}"
        launched = laptop.sweeper(
            *("launch", "pusht_quick", "--name", name, "budget.trials=1", f"resources.workers={workers}"),
            *("resources.cpu_per_worker=1", "early_stop=null", "config.train.steps=60"),
            *("config.train.log_every=20", "config.train.eval_every=60", "config.rollout.episodes=2"),
            "config.lr_scheduler.warmup_steps=10",
        )
        if launched.returncode:
            report.hold(f"a sweep with {workers} worker(s) is sent", False, launched.stderr[-300:].strip())
            return
        until(lambda name=name: laptop.status(name)["status"] in ("done", "failed"), 400)
        journal = work / "shared" / "sweeps" / name / "journal.jsonl"
        events = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
        curves[workers] = [
            (event["step"], event["metrics"]["train/loss"])
            for event in events
            if event["event"] == "report" and "train/loss" in event["metrics"]
        ]
    one, two = curves[1], curves[2]
    same = len(one) >= 3 and [step for step, _ in one] == [step for step, _ in two]
    apart = max((abs(a - b) / a for (_, a), (_, b) in zip(one, two, strict=False)), default=1.0)
    report.hold("two workers on two machines learn what one does", same and apart < 1e-3, (one, two))


def down(report: Report, laptop: Laptop, key: Path, hosts: dict[int, Host]) -> None:
    """The end: nothing is left on any host."""
    service = "diffusion-policy-sweeper/scripts/mlflow_service.sh"
    laptop.run("ray", "exec", str(laptop.file), f"sh ~/{service} stop", log="ray-down.log")
    with report.timed("ray down"):
        ended = laptop.run("ray", "down", "--yes", str(laptop.file), log="ray-down.log")
    report.hold("ray down", ended.returncode == 0)
    for number, host in hosts.items():
        if number != 11:
            # `ray down` of a provider without machines of its own reaches the head alone.
            stop = "'. ~/.sweeper/environment.sh; ray stop'"
            laptop.run("ssh", *laptop.ssh(key), f"root@{host.address}", f"bash -c {stop}", log="ray-down.log")
        left = until(lambda host=host: not host.processes(key), 150) or host.processes(key)
        report.hold(f"nothing is left on {host.name}", left is True, "" if left is True else left)


if __name__ == "__main__":
    sys.exit(main())
