"""The same sweep by this service and by a loop over LeRobot's own commands.

``python -m benchmarks.sweep --json FILE [--lerobot VENV] [--quick] [--task state|image]``. Hours on two
cores, ``--quick`` at most 15 minutes. A second call with the same file continues: each cell (task, who,
repetition) is measured once.

A sweep is a few fixed configurations of one seed on the built-in Push-T demonstrations: small networks,
trained for the same steps with the same batches and judged once on the same number of episodes.

- ``sweeper``: one ``sweeper launch``, one CPU and one trial per core.
- ``lerobot``: for each configuration ``lerobot-train``, then ``lerobot-eval``, one after the other; torch
  uses all cores, and as many loader workers as there are cores.
- ``early stopping`` and ``inner search``: ``sweeper`` again with those switched on. Their trials are not the
  same as LeRobot's, so their ratio is one of trials, not of equal work.

Both begin without a cache of decoded pictures and with the bytecode of their environments compiled: without
it, ``lerobot-train`` compiles for 14 seconds at every start. On equal terms this service does
more: it averages the weights, measures the held-out action error, draws a picture of the denoising, records
in MLflow and writes a report. LeRobot films up to ten episodes, this service four.

CPU-seconds are those of all processes that the commands started, read twice a second. Parts are seconds of
trials, added up over trials; with two trials at once they exceed the wall time. Set-up is the start and the
end of a trial's processes. Idle is what the cores did not do for the sweep in its wall time; if the machine
does other work, that is in it too.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from sweeper.layout import JOURNAL
from sweeper.records.events import Event, EventKind
from sweeper.records.journal import read_journal
from trainables.pusht.demonstrations import ensure_dataset

LEROBOT = Path(".interop") / "venv-0.6.1"
OURS, THEIRS, STOPPED, INNER = "sweeper", "lerobot", "early stopping", "inner search"
PARTS = ("set-up", "data", "steps", "evaluation", "checkpoints")
HORIZONS, RATES = (16, 12), (1e-3, 3e-3)
EXECUTED, OBSERVED, TIMESTEPS, SEED = 8, 2, 8, 0
CORES = len(os.sched_getaffinity(0))
CHECKOUT = Path(__file__).parents[1]
SUBREAPER = 36
"""``PR_SET_CHILD_SUBREAPER``: processes whose parent ends become children of this one."""


@dataclass(frozen=True)
class Size:
    """How large a sweep of one task is.

    Attributes:
        task: ``state`` (agent and keypoints) or ``image`` (agent and camera).
        configurations: At most four.
        steps: Optimiser steps of a trial.
        batch: Samples of a step.
        episodes: Rollouts that judge a trial.
    """

    task: str
    configurations: int
    steps: int
    batch: int
    episodes: int


FULL = (Size("state", 4, 1000, 64, 32), Size("image", 4, 100, 32, 8))
QUICK = (Size("state", 2, 120, 64, 16), Size("image", 2, 20, 16, 4))
FEATURES = {
    "observation.state": {"type": "STATE", "shape": [2]},
    "observation.environment_state": {"type": "ENV", "shape": [16]},
    "observation.image": {"type": "VISUAL", "shape": [3, 96, 96]},
}
SEEN = {
    "state": ("observation.state", "observation.environment_state"),
    "image": ("observation.image", "observation.state"),
}


def configurations(size: Size) -> list[tuple[int, float]]:
    """The horizon and the learning rate of each trial."""
    return list(product(HORIZONS, RATES))[: size.configurations]


# -- this service


def space(size: Size, root: Path, who: str) -> dict[str, Any]:
    """The space file of a sweep."""
    chosen = configurations(size)
    config: dict[str, Any] = {
        "dataset.root": str(root),
        "dataset.observations": list(SEEN[size.task]),
        "policy.n_obs_steps": OBSERVED,
        "policy.n_action_steps": EXECUTED,
        "policy.down_dims": [32, 64],
        "policy.diffusion_step_embed_dim": 32,
        "policy.prediction_type": "sample",
        "policy.noise_scheduler_type": "DDIM",
        "policy.num_inference_steps": TIMESTEPS,
        "train.steps": size.steps,
        "train.batch_size": size.batch,
        "train.log_every": _interval(size),
        "train.eval_every": size.steps,
        "train.seed": SEED,
        "lr_scheduler.warmup_steps": size.steps // 10,
        "rollout.env": "gym_pusht/PushT-v0",
        "rollout.episodes": size.episodes,
        "rollout.parallel": size.episodes,
    }
    written: dict[str, Any] = {
        "name": "sweep",
        "trainable": "diffusion_policy",
        "config": config,
        "parameters": {
            "policy.horizon": {"values": list(dict.fromkeys(horizon for horizon, _ in chosen))},
            "optimizer.lr": {"values": list(dict.fromkeys(rate for _, rate in chosen))},
        },
        "metric": {"name": "rollout/avg_max_reward", "goal": "maximize"},
        "search": {"method": "grid"},
        "budget": {"trials": len(chosen)},
        "resources": {"workers": 1, "gpu_per_worker": 0, "cpu_per_worker": 1},
    }
    if who == STOPPED:
        config["train.eval_every"] = rung = size.steps // 4
        # The first report is one without an evaluation: only then are set-up and evaluation told apart.
        config["train.log_every"] = max(1, rung // 2)
        rules = {"method": "asha", "metric": "rollout/avg_max_reward", "min_steps": rung, "reduction": 2}
        written["early_stop"] = rules
    if who == INNER:
        del config["policy.n_action_steps"]  # the training takes the largest of these
        tried = {"policy.n_action_steps": {"values": [4, 6, EXECUTED]}}
        written["inference"] = {"parameters": tried, "episodes": size.episodes}
    return written


def _interval(size: Size) -> int:
    return max(1, size.steps // 4)


def run_sweeper(size: Size, root: Path, folder: Path, who: str) -> dict[str, Any]:
    """Launch the sweep; what it cost, and the parts of its trials."""
    file = folder / "sweep.yaml"
    file.write_text(json.dumps(space(size, root, who)))  # JSON is YAML
    environment = {"SWEEPER_SWEEPS": str(folder / "sweeps"), "SWEEPER_CACHE": str(folder / "cache")}
    launch = [sys.executable, "-m", "sweeper.cli", "launch", str(file)]
    cost = measure(launch, environment, folder / "launch.log")
    sweep = folder / "sweeps" / "sweep"
    events = read_journal(sweep / JOURNAL).events
    parts = trial_parts(events, size.batch)
    ends = [event["time"] for event in events if event["event"] == EventKind.TRIAL_END]
    starts = [event["time"] for event in events if event["event"] == EventKind.TRIAL_START]
    rewards = [event["final"].get("rollout/avg_max_reward") for event in _of(events, EventKind.TRIAL_END)]
    return cost | {
        "trials": len(ends),
        "steps": sum(event["step"] for event in _of(events, EventKind.TRIAL_END)),
        "before the first trial": min(starts) - cost["started"],
        "after the last trial": cost["started"] + cost["wall_s"] - max(ends),
        "parts": parts,
        "rewards": rewards,
    }


def _of(events: Sequence[Event], kind: EventKind) -> list[Event]:
    return [event for event in events if event["event"] == kind]


def trial_parts(events: Sequence[Event], batch: int) -> dict[str, float]:
    """Seconds of each part, added up over the trials of a journal.

    A report says how long its steps took and which share of that was waiting for data; the records of
    episodes and the pictures of an evaluation have the time at which they were written, and the checkpoint
    follows.
    """
    parts = dict.fromkeys(PARTS, 0.0)
    for start in _of(events, EventKind.TRIAL_START):
        own = [event for event in events if event.get("trial") == start["trial"]]
        before, done = start["time"], 0
        reports = _of(own, EventKind.REPORT)
        tuned = bool(_of(own, EventKind.TUNED))
        for event in reports:
            metrics, written = event["metrics"], event["time"]
            steps_s = (event["step"] - done) * batch / metrics["train/samples_per_s"]
            waited_s = metrics["train/data_wait_fraction"] * steps_s
            parts["data"] += waited_s
            parts["steps"] += steps_s - waited_s
            rest_s = max(0.0, written - before - steps_s)
            evaluated = _written(event.get("artifacts") or {})
            if evaluated is None:
                parts["set-up"] += rest_s
            else:
                checkpoint_s = min(max(0.0, written - evaluated), rest_s)
                if tuned and event is reports[-1]:
                    checkpoint_s = 0.0  # settings are examined after it, which takes much longer
                parts["checkpoints"] += checkpoint_s
                parts["evaluation"] += rest_s - checkpoint_s
            before, done = written, event["step"]
        for end in _of(own, EventKind.TRIAL_END):
            parts["evaluation" if tuned else "set-up"] += max(0.0, end["time"] - before)
    return parts


def _written(artifacts: Mapping[str, str]) -> float | None:
    """When the last artifact of an evaluation was written, in seconds since 1970."""
    found = [Path(path).stat().st_mtime for path in artifacts.values() if Path(path).exists()]
    return max(found, default=None)


# -- LeRobot


def run_lerobot(size: Size, root: Path, folder: Path, lerobot: Path) -> dict[str, Any]:
    """Train and evaluate one configuration after the other."""
    total: dict[str, Any] = {"wall_s": 0.0, "cpu_s": 0.0, "trials": 0, "steps": 0, "rewards": []}
    parts = dict.fromkeys(PARTS, 0.0)
    environment = {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "huggingface"),
        "SDL_VIDEODRIVER": "dummy",
        "TQDM_DISABLE": "1",
    }
    for number, (horizon, rate) in enumerate(configurations(size)):
        trained, judged = folder / f"train-{number}", folder / f"eval-{number}"
        log = folder / f"train-{number}.log"
        options = train_options(size, root, trained, horizon, rate)
        training = measure(_command(lerobot, "lerobot-train", options), environment, log)
        options = eval_options(size, trained, judged)
        judging = measure(
            _command(lerobot, "lerobot-eval", options), environment, folder / f"eval-{number}.log"
        )
        found = json.loads((judged / "eval_info.json").read_text())["overall"]
        for name, seconds in lerobot_parts(log.read_text(), size, training, judging, found["eval_s"]).items():
            parts[name] += seconds
        for name in ("wall_s", "cpu_s"):
            total[name] += training[name] + judging[name]
        total["trials"] += 1
        total["steps"] += size.steps
        total["rewards"].append(found["avg_max_reward"])
    return total | {"parts": parts}


def _command(lerobot: Path, name: str, options: Mapping[str, Any]) -> list[str]:
    return [str(lerobot / "bin" / name), *(f"--{option}={value}" for option, value in options.items())]


def train_options(size: Size, root: Path, out: Path, horizon: int, rate: float) -> dict[str, Any]:
    """The arguments of ``lerobot-train``: the configuration of `space` in its terms."""
    inputs = {name: FEATURES[name] for name in SEEN[size.task]}
    return {
        "dataset.repo_id": "local/pusht",
        "dataset.root": root,
        "output_dir": out,
        "policy.type": "diffusion",
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "policy.input_features": json.dumps(inputs),
        "policy.n_obs_steps": OBSERVED,
        "policy.horizon": horizon,
        "policy.n_action_steps": EXECUTED,
        "policy.down_dims": "[32, 64]",
        "policy.diffusion_step_embed_dim": 32,
        "policy.pretrained_backbone_weights": "null",
        "policy.use_group_norm": "true",
        "policy.prediction_type": "sample",
        "policy.noise_scheduler_type": "DDIM",
        "policy.num_inference_steps": TIMESTEPS,
        "policy.optimizer_lr": rate,
        "policy.scheduler_warmup_steps": size.steps // 10,
        "steps": size.steps,
        "batch_size": size.batch,
        "num_workers": CORES,
        "log_freq": _interval(size),
        "save_freq": size.steps,
        "env_eval_freq": 0,
        "wandb.enable": "false",
        "seed": SEED,
    }


def eval_options(size: Size, trained: Path, out: Path) -> dict[str, Any]:
    """The arguments of ``lerobot-eval``."""
    return {
        "policy.path": trained / "checkpoints" / "last" / "pretrained_model",
        "policy.device": "cpu",
        "env.type": "pusht",
        "env.obs_type": "pixels_agent_pos" if size.task == "image" else "environment_state_agent_pos",
        "env.observation_width": 96,
        "env.observation_height": 96,
        # It films up to ten episodes; small films are drawn in less time.
        "env.visualization_width": 128,
        "env.visualization_height": 128,
        "eval.n_episodes": size.episodes,
        "eval.batch_size": size.episodes,
        "eval.use_async_envs": "false",
        "output_dir": out,
        "seed": 100_000,
    }


LOGGED = re.compile(r"updt_s:([0-9.]+) data_s:([0-9.]+)")
MOMENT = r"INFO (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)"


def lerobot_parts(
    log: str, size: Size, training: Mapping[str, float], judging: Mapping[str, float], eval_s: float
) -> dict[str, float]:
    """Seconds of each part of one trial, from what ``lerobot-train`` logged.

    Each logged line has the mean seconds of a step since the last one. Its clock has whole seconds.
    """
    logged = [(float(update), float(data)) for update, data in LOGGED.findall(log)]
    update_s = sum(update for update, _ in logged) * _interval(size)
    data_s = sum(data for _, data in logged) * _interval(size)
    checkpoint_s = _between(log, "Checkpoint policy after step", "End of training")
    total_s = training["wall_s"] + judging["wall_s"]
    setup_s = max(0.0, total_s - update_s - data_s - checkpoint_s - eval_s)
    return dict(zip(PARTS, (setup_s, data_s, update_s, eval_s, checkpoint_s), strict=True))


def _between(log: str, first: str, then: str) -> float:
    moments = []
    for words in (first, then):
        found = re.search(MOMENT + r"[^\n\r]*" + re.escape(words), log)
        if found is None:
            return 0.0
        moments.append(datetime.fromisoformat(found[1]))
    return (moments[1] - moments[0]).total_seconds()


# -- what a command costs


def compile_packages(python: Path) -> None:
    """Compile the bytecode of an environment, so that no measured command has to."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([str(python), "-c", asked], capture_output=True, text=True, check=True)
    command = [str(python), "-m", "compileall", "-q", "-j", str(CORES), found.stdout.strip()]
    # Some packages contain templates that are not Python: their errors are expected.
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def measure(command: Sequence[str], variables: Mapping[str, str], log: Path) -> dict[str, float]:
    """Run a command; its wall time and the CPU-seconds of every process that it started."""
    environment = os.environ | {"SWEEPER_REPORT": "on"} | dict(variables)
    # All cores and bytecode, whatever the shell says; LeRobot's Python must not find this project's packages.
    for name in ("OMP_NUM_THREADS", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    if command[0] == sys.executable:
        environment["PYTHONPATH"] = str(CHECKOUT)
    with log.open("w") as file, _counted() as processes:
        started, clock = time.time(), time.perf_counter()
        done = subprocess.run(
            command, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=log.parent, check=False
        )
        wall_s = time.perf_counter() - clock
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} failed with {done.returncode}. Its output: {log}")
    return {"started": started, "wall_s": wall_s, "cpu_s": sum(processes.values())}


@contextmanager
def _counted() -> Iterator[dict[tuple[int, float], float]]:
    """CPU-seconds of each descendant of this process that began inside, as last seen."""
    with suppress(OSError, AttributeError):  # Linux only; elsewhere orphans are not counted
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    seen: dict[tuple[int, float], float] = {}
    over = threading.Event()
    me = psutil.Process()
    before = {child.pid for child in me.children(recursive=True)}

    def look() -> None:
        for child in me.children(recursive=True):
            with suppress(psutil.Error):
                if child.pid not in before:
                    times = child.cpu_times()
                    seen[child.pid, child.create_time()] = times.user + times.system

    def watch() -> None:
        while not over.wait(0.5):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
        look()
    finally:
        over.set()
        watcher.join()


# -- the cells


def cells(sizes: Sequence[Size], repetitions: int, variants: bool) -> list[tuple[Size, str, int]]:
    """Every measurement, so that those that are compared alternate: A B A B."""
    found = []
    for size in sizes:
        found += [(size, who, number) for number in range(repetitions) for who in (OURS, THEIRS)]
        if variants:
            found += [(size, who, 0) for who in (STOPPED, INNER)]
    return found


def run(
    wanted: Sequence[tuple[Size, str, int]], lerobot: Path, cache: Path, file: Path | None, say: Console
) -> list[dict[str, Any]]:
    """Measure every cell that ``file`` does not have yet."""
    rows = _earlier(file)
    for size, who, repetition in _missing(wanted, rows):
        say.print(f"[dim]{size.task}, {who}, repetition {repetition} …[/dim]")
        root = ensure_dataset(cache, size.task == "image")
        with tempfile.TemporaryDirectory(prefix="sweep-") as temporary:
            folder = Path(temporary)
            if who == THEIRS:
                measured = run_lerobot(size, root, folder, lerobot)
            else:
                measured = run_sweeper(size, root, folder, who)
        rows.append(_named(size, who, repetition) | measured)
        _write(file, rows, lerobot)
    return rows


def _missing(
    wanted: Sequence[tuple[Size, str, int]], rows: Sequence[dict[str, Any]]
) -> list[tuple[Size, str, int]]:
    """The cells that have no row."""
    return [one for one in wanted if not any(row | _named(*one) == row for row in rows)]


def _named(size: Size, who: str, repetition: int) -> dict[str, Any]:
    """By what a row names its cell."""
    return {"size": asdict(size), "who": who, "repetition": repetition}


def _earlier(file: Path | None) -> list[dict[str, Any]]:
    if file is None or not file.exists():
        return []
    found: dict[str, Any] = json.loads(file.read_text())
    if found["machine"]["processor"] != machine.describe()["processor"]:
        raise SystemExit(f"{file} is of another machine: {found['machine']}. Name another file.")
    return list(found["rows"])


def _write(file: Path | None, rows: Sequence[dict[str, Any]], lerobot: Path) -> None:
    if file is not None:
        content = {"machine": machine.describe(), "versions": versions(lerobot), "rows": rows}
        beside = file.with_suffix(".unfinished")
        beside.write_text(json.dumps(content, indent=2) + "\n")
        beside.replace(file)


def versions(lerobot: Path) -> dict[str, str]:
    """The versions of both sides that ``machine.describe`` does not have."""
    ask = "from importlib.metadata import version as v; import platform as p; "
    ask += "print(v('lerobot'), v('torch'), p.python_version())"
    command = [str(lerobot / "bin" / "python"), "-c", ask]
    asked = subprocess.run(command, capture_output=True, text=True, check=True)
    names = ("lerobot", "lerobot's torch", "lerobot's python")
    return {"ray": version("ray")} | dict(zip(names, asked.stdout.split(), strict=True))


# -- the tables


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each task, size and side: its fastest repetition, beside LeRobot's."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in rows:
        key = json.dumps(row["size"]), row["who"]
        if key not in best or row["wall_s"] < best[key]["wall_s"]:
            best[key] = row
    found = []
    for (size, who), row in best.items():
        theirs = best.get((size, THEIRS))
        per_hour = 3600 * row["trials"] / row["wall_s"]
        ratio = None if theirs is None else per_hour * theirs["wall_s"] / (3600 * theirs["trials"])
        found.append(
            {
                "task": row["size"]["task"],
                "by": who,
                "trials": row["trials"],
                "steps": row["steps"],
                "wall s": row["wall_s"],
                "CPU s": row["cpu_s"],
                "idle core s": CORES * row["wall_s"] - row["cpu_s"],
                "trials/h": per_hour,
                "to LeRobot": ratio,
            }
        )
    return found


def parts_table(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Seconds per trial of each part, one row for each cell."""
    return [
        {"task": row["size"]["task"], "by": row["who"], "repetition": row["repetition"]}
        | {name: row["parts"][name] / row["trials"] for name in PARTS}
        | {name: row.get(name) for name in ("before the first trial", "after the last trial")}
        for row in rows
    ]


def _show(title: str, rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    if not rows:
        return
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure what is missing, and show the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="keep the measurements here; a second call continues")
    parser.add_argument("--lerobot", type=Path, default=LEROBOT, help="LeRobot's environment (make interop)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once")
    parser.add_argument("--task", choices=("state", "image"), action="append", help="only this task")
    parser.add_argument("--repetitions", type=int, help="of each side (2; with --quick 1)")
    parser.add_argument("--no-variants", action="store_true", help="no early stopping, no inner search")
    for name in ("configurations", "steps", "episodes"):
        parser.add_argument(f"--{name}", type=int, help="instead of the task's own size")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "sweep-demonstrations")
    arguments = parser.parse_args()
    if not (arguments.lerobot / "bin" / "lerobot-train").exists():
        parser.error(f"{arguments.lerobot} has no lerobot-train. Make it: make interop, or name another.")
    console = Console(width=150)
    lerobot = arguments.lerobot.absolute()
    described = machine.describe() | versions(lerobot)
    console.print(", ".join(f"{name} {value}" for name, value in described.items()))
    sizes = _sizes(arguments)
    repetitions = arguments.repetitions or (1 if arguments.quick else 2)
    wanted = cells(sizes, repetitions, not arguments.no_variants)
    if _missing(wanted, _earlier(arguments.json)):
        for python in (Path(sys.executable), lerobot / "bin" / "python"):
            compile_packages(python)
    rows = run(wanted, lerobot, arguments.cache.absolute(), arguments.json, console)
    _show("the fastest repetition of each", summary(rows), console)
    _show("seconds per trial", parts_table(rows), console)


def _sizes(arguments: argparse.Namespace) -> list[Size]:
    names = ("configurations", "steps", "episodes")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    return [
        Size(**(asdict(size) | changes))
        for size in (QUICK if arguments.quick else FULL)
        if arguments.task is None or size.task in arguments.task
    ]


if __name__ == "__main__":
    main()
