"""All that a user reads (help, results, status, findings, faults), compared with golden files.

Remake them with this command, and read the diff before you commit it:

    python -m pytest tests/sweeper/test_golden.py --remake-golden

Nothing here starts Ray. What differs between machines and runs is fixed: time, time zone, width, hardware.
Paths are replaced by words.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from command_line import ended, plain_console, printed, run_in
from golden_files import GoldenFiles
from played_sweeps import Sweep
from probed_nodes import measured
from reaching_policies import ReachingPolicy
from reaching_sweeps import ended_sweep, record_episodes
from small_sweeps import BETA_END, DIMS, LR, SCHEDULE, SUCCESS, sweep
from typer import rich_utils

from sweeper.cli import COMMANDS, load_command
from sweeper.errors import SpecError
from sweeper.layout import JOURNAL, trial_folder
from sweeper.machines.doctor import probe
from sweeper.machines.doctor.diagnosis import NodeReport, judge
from sweeper.machines.machine import Machine
from sweeper.machines.plan import make_plan
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal, read_journal
from sweeper.records.sweep_state import SweepState
from sweeper.spec.space_file.load import load_spec, packaged_spaces
from sweeper.steering.status import forecast_of
from sweeper.terminal.faults import print_spec_error
from sweeper.terminal.findings import print_diagnoses
from sweeper.terminal.live import Display, events_as_lines
from sweeper.terminal.plan import print_plan
from sweeper.terminal.tables import ranking_table
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

NOW = 1_700_000_000.0
"""14 November 2023, 22:13:20 UTC."""
WIDTH = 100
REWARD = "rollout/avg_max_reward"
GOOD = (Path(__file__).parent / "good_space.yaml").read_text()
BAD = yaml.safe_load((Path(__file__).parent / "bad_spaces.yaml").read_text())


@pytest.fixture(autouse=True)
def _fixed_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    run_in(tmp_path, monkeypatch)
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", WIDTH)
    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", False)
    monkeypatch.setattr(time, "time", lambda: NOW)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# Help


def command_words() -> dict[str, list[str]]:
    """The golden file of every command, and the arguments that call it."""
    found: dict[str, list[str]] = {"sweeper": []}
    for name in COMMANDS:
        found[f"sweeper-{name}"] = [name]
        for word in getattr(load_command(name), "commands", {}):
            found[f"sweeper-{name}-{word}"] = [name, word]
    return found


WORDS = command_words()


@pytest.mark.parametrize("name", WORDS)
def test_help_of_every_command(capsys, golden: GoldenFiles, name):
    assert ended(*WORDS[name], "--help") == 0
    golden.compare(f"help/{name}.txt", capsys.readouterr().out, made_with=("typer", "rich"))


def test_every_golden_help_page_belongs_to_a_command(golden: GoldenFiles):
    assert len(WORDS) > 15
    assert {path.stem for path in (golden.folder / "help").iterdir()} == set(WORDS)


# A space


def test_plan_of_a_space(golden: GoldenFiles):
    spec = load_spec(str(packaged_spaces()["pusht_image"]))
    console = plain_console()
    print_plan(console, make_plan(spec, Machine(16, 2, ("NVIDIA L4",) * 2, disk_gb=500.0)))
    golden.compare("check_pusht_image.txt", printed(console), made_with=("rich",))


@pytest.mark.slow
def test_faults_of_every_bad_space(golden: GoldenFiles, tmp_path: Path):
    console = plain_console()
    for case, change in BAD.items():
        assert GOOD.count(change["replace"]) == 1, case
        Path("space.yaml").write_text(GOOD.replace(change["replace"], change["by"]))
        with pytest.raises(SpecError) as caught:
            load_spec("space.yaml")
        console.print(f"== {case}", markup=False)
        print_spec_error(console, caught.value)
    golden.compare("bad_spaces.txt", printed(console), made_with=("rich", "pyyaml"))


OTHER_TOOLS = sorted((Path(__file__).parent / "other_tools").glob("*.yaml"))


def test_there_are_files_of_several_tools():
    assert len(OTHER_TOOLS) >= 6


@pytest.mark.parametrize("file", OTHER_TOOLS, ids=lambda path: path.stem)
def test_faults_of_a_file_of_another_tool(golden: GoldenFiles, capsys, tmp_path: Path, file: Path):
    (tmp_path / file.name).write_text(file.read_text())
    assert ended("check", file.name) == 2
    golden.compare(f"other_tools/{file.stem}.txt", capsys.readouterr().err, made_with=("rich", "pyyaml"))


def test_messages_for_mistyped_input(golden: GoldenFiles, capsys):
    write_journal(Path("sweeps/small"), over=True)
    wrong = [
        ["chekc"],
        ["xyzzy"],
        ["check", "nowhere.yaml"],
        ["check", "pusht_quik"],
        ["launch", "pusht_quick", "--adress", "auto"],
        ["results"],
        ["results", "nobody"],
        ["results", "smal"],
        ["logs", "small", "99"],
        ["export", "small:99", "--to", "out"],
        ["export", "small", "--to", "out"],
        ["resume", "small", "metric.name=train/loss"],
        ["status", "--cluster"],
        ["data", "check", "nowhere"],
        ["data", "check", "builtin/pusht", "policy.horizont=32"],
    ]
    pages = []
    for arguments in wrong:
        assert ended(*arguments) == 2, arguments
        out, err = capsys.readouterr()
        pages.append(f"$ sweeper {' '.join(arguments)}\n{out}{err}")
    golden.compare("wrong_input.txt", "\n".join(pages), made_with=("typer", "rich"))


# A sweep


def write_journal(folder: Path, *, over: bool) -> None:
    """Write the journal of a sweep whose seven trials end in different ways; ``over``: it has ended."""
    spec = sweep(folder, LR, SCHEDULE, DIMS, BETA_END, trials=8)
    now = NOW - 10_000.0
    with pytest.MonkeyPatch.context() as patch, Journal(folder / JOURNAL) as journal:
        patch.setattr(time, "time", lambda: now)

        def tell(kind: EventKind, after_s: float, **fields: Any) -> None:
            nonlocal now
            now += after_s
            journal.append(kind, **fields)

        def start(trial: int, lr: float, dims: list[int], schedule: str, **more: Any) -> None:
            values = {"optimizer.lr": lr, "policy.beta_schedule": schedule, "policy.down_dims": dims, **more}
            tell(EventKind.TRIAL_START, 1, trial=trial, values=values, config={"train.steps": 100, **values})

        def report(trial: int, step: int, loss: float, success: float | None = None) -> None:
            metrics = {"train/loss": loss, "train/grad_norm": 10 * loss}
            metrics |= {} if success is None else {SUCCESS: success, REWARD: success + 0.1}
            checkpoint = f"trials/{trial}/checkpoints/{step:06d}"
            tell(EventKind.REPORT, 60, trial=trial, step=step, metrics=metrics, checkpoint=checkpoint)

        def end(trial: int, status: str, reason: str = "", message: str = "") -> None:
            tell(EventKind.TRIAL_END, 2, trial=trial, status=status, reason=reason, message=message)

        tell(
            EventKind.SWEEP_START,
            0,
            sweep=folder.name,
            sweep_id="0123456789ab",
            spec=spec.to_dict(),
            space="name: small\n",
            info={"resources": {"workers": 1, "gpu_per_worker": 1.0, "at_once": 2}, "steps": 100},
            driver={"host": "another-machine", "pid": 4242, "started": now},
        )
        start(0, 1e-4, [64, 128], "squaredcos_cap_v2")
        report(0, 50, 0.25, 0.4)
        report(0, 100, 0.125, 0.75)
        end(0, "completed")
        start(1, 3.25e-4, [32, 64], "linear", **{"policy.beta_end": 0.02})
        report(1, 50, 0.5, 0.1)
        end(1, "stopped_early", "early_stop")
        start(2, 9e-4, [32, 64], "linear", **{"policy.beta_end": 0.04})
        end(2, "failed", "diverged", "the loss is nan at step 3")
        start(3, 2e-4, [64, 128], "linear", **{"policy.beta_end": 0.03})
        report(3, 50, 0.2, 0.6)
        tell(
            EventKind.TRIAL_RETRY,
            5,
            trial=3,
            reason="out_of_memory",
            message="CUDA out of memory. It continues from its last checkpoint with less at once: "
            "train.gradient_accumulation_steps 1 -> 2",
            step=50,
            retry=1,
            changes={"train.gradient_accumulation_steps": 2},
        )
        start(3, 2e-4, [64, 128], "linear", **{"policy.beta_end": 0.03})
        report(3, 100, 0.15, 0.55)
        end(3, "completed")
        dropped = ["trials/1/checkpoints/000050"]
        tell(EventKind.CHECKPOINTS_DROPPED, 0, trial=1, folders=dropped)
        start(4, 5e-5, [32, 64], "squaredcos_cap_v2")
        report(4, 50, 0.3, 0.2)
        tell(EventKind.STEER, 1, action="stop", text="Trial 4 was asked to stop.", trial=4)
        end(4, "stopped_early", "stopped")
        start(5, 1.5e-4, [64, 128], "squaredcos_cap_v2")
        report(5, 20, 0.28, 0.3)
        report(5, 50, 0.22, 0.5)
        start(6, 7e-4, [32, 64], "squaredcos_cap_v2")
        tell(EventKind.TRIAL_WAIT, 0, trial=6, needs="1 GPU")
        tell(EventKind.NOTE, 0, text="the space has no more configurations")
        if over:
            end(5, "interrupted", "interrupted", "the sweep was interrupted")
            end(6, "interrupted", "interrupted", "the sweep was interrupted")
            tell(EventKind.SWEEP_END, 1, status="interrupted", message="Interrupted by Ctrl-C.")
    failed = trial_folder(folder, 2)
    failed.mkdir(parents=True)
    (failed / "error.txt").write_text("the loss is nan at step 3\n")
    running = trial_folder(folder, 5)
    running.mkdir()
    (running / "progress.json").write_text(json.dumps({"message": "evaluating, rollout 3 of 10"}))


def folder_of(path: Path) -> dict[str, str]:
    return {str(path): "FOLDER"}


def test_results_of_a_sweep(golden: GoldenFiles, capsys, tmp_path: Path):
    write_journal(Path("sweeps/small"), over=True)
    assert ended("results", "small") == 0
    golden.compare("results.txt", capsys.readouterr().out, made_with=("rich",))
    assert ended("results", "small", "--top", "1") == 0
    golden.compare("results_top.txt", capsys.readouterr().out, made_with=("rich",))
    assert ended("results", "small", "--json") == 0
    golden.compare("results_json.txt", capsys.readouterr().out, words=folder_of(tmp_path))


def test_results_in_a_narrow_terminal(golden: GoldenFiles):
    write_journal(Path("sweeps/small"), over=True)
    console = plain_console(80)
    console.print(ranking_table(read(Path("sweeps/small")), width=80))
    golden.compare("results_80.txt", printed(console), made_with=("rich",))


def test_status_and_list_of_sweeps(golden: GoldenFiles, capsys, tmp_path: Path):
    write_journal(Path("sweeps/small"), over=True)
    write_journal(Path("sweeps/running"), over=False)
    words = folder_of(tmp_path)
    assert ended("status", "small") == 0
    golden.compare("status.txt", capsys.readouterr().out, made_with=("rich",), words=words)
    assert ended("status", "running") == 0
    golden.compare("status_running.txt", capsys.readouterr().out, made_with=("rich",), words=words)
    assert ended("status", "running", "--json") == 0
    golden.compare("status_json.txt", capsys.readouterr().out, words=words)
    assert ended("status") == 0
    golden.compare("status_all.txt", capsys.readouterr().out, made_with=("rich",))
    assert ended("list") == 0
    golden.compare("list.txt", capsys.readouterr().out, made_with=("rich",))


def test_log_lines_of_events(golden: GoldenFiles):
    write_journal(Path("sweeps/small"), over=True)
    lines = events_as_lines(read_journal(Path("sweeps/small") / JOURNAL).events)
    golden.compare("events.txt", "\n".join(lines))


def test_how_sure_a_ranking_and_a_comparison_are(golden: GoldenFiles, capsys, tmp_path: Path):
    skills = (0.3, 0.9, 0.8)
    folder = ended_sweep(Path("sweeps/small"), *skills).folder
    for trial, skill in enumerate(skills):
        record_episodes(folder, trial, skill, 50)
        rate = fmean(one.success for one in ReachingPolicy(skill).rollout({}, "search", range(50)))
        Sweep(folder).report(trial, 10, {SUCCESS: rate})
    pages = []

    def run(code: int, *arguments: str) -> None:
        assert ended(*arguments) == code
        out, err = capsys.readouterr()
        pages.append(f"$ sweeper {' '.join(arguments)}\n{out}{err}")

    run(1, "results", "small", "--require", f"{SUCCESS}_low>=0.9", "--require", f"{SUCCESS}>=0.5")
    run(0, "results", "small", "--csv")
    run(0, "compare", "small:1", "small:2", "small:0")
    run(2, "results", "small", "--require", "success>=0.5")
    run(2, "results", "small", "--require", f"{SUCCESS}=>0.5")
    for trial, skill in ((1, 0.9), (2, 0.8)):
        record_episodes(folder, trial, skill, 400, "confirm")
    Sweep(folder).confirmed((1, 0.9, 0.99), (2, 0.8, 0.01))
    run(0, "results", "small")
    run(0, "compare", "small:1", "small:2")
    golden.compare("comparison.txt", "\n".join(pages), made_with=("rich", "scipy"), words=folder_of(tmp_path))


def read(folder: Path) -> SweepState:
    """The state of a sweep, from its journal."""
    found = SweepState(folder)
    for event in read_journal(folder / JOURNAL).events:
        found.apply(event)
    return found


@pytest.mark.parametrize("width", [80, 120])
def test_live_table_of_a_running_sweep(golden: GoldenFiles, width):
    write_journal(Path("sweeps/running"), over=False)
    console = plain_console(width, terminal=True)
    board = forecast_of(read(Path("sweeps/running")))
    with Display(console, board, lambda: "MLflow does not answer: Connection refused"):
        pass
    golden.compare(f"live_{width}.txt", printed(console), made_with=("rich",))


# Machines


def test_doctor_of_a_machine(golden: GoldenFiles, capsys, monkeypatch):
    monkeypatch.setattr(probe, "look", lambda sweeps, mlflow: measured())
    assert ended("doctor") == 0
    golden.compare("doctor.txt", capsys.readouterr().out, made_with=("rich",))
    cache = {**measured()["cache"], "free_gb": 0.5}
    faulty = measured(driver="535.104.05", cache=cache, files=1024, shm_gb=0.067, shm_free_gb=0.06)
    monkeypatch.setattr(probe, "look", lambda sweeps, mlflow: faulty)
    assert ended("doctor") == 1
    golden.compare("doctor_faults.txt", capsys.readouterr().out, made_with=("rich",))


def test_doctor_of_a_cluster(golden: GoldenFiles):
    sound = measured()
    nodes = [
        NodeReport("head", True, 0.0, measured(gpus=[], driver=None, mlflow="Connection refused")),
        NodeReport("sound", False, 1.0, sound),
        NodeReport("one-more", False, 1.0, sound),
        NodeReport("old-python", False, 1.0, measured(identity={**sound["identity"], "python": "3.11.9"})),
        NodeReport("old-ray", False, 1.0, measured(identity={**sound["identity"], "ray": "2.59.0"})),
        NodeReport("old-code", False, 1.0, measured(identity={**sound["identity"], "code": "bbbbbbbbbbbb"})),
        NodeReport(
            "old-torch",
            False,
            1.0,
            measured(identity={**sound["identity"], "packages": {"torch": "2.9.1", "numpy": "2.4.6"}}),
        ),
        NodeReport("too-many-gpus", False, 2.0, sound),
        NodeReport("no-cuda", False, 1.0, measured(torch_cuda=None)),
        NodeReport("no-driver", False, 1.0, measured(driver=None)),
        NodeReport("closed-disk", False, 1.0, measured(sweeps={**sound["sweeps"], "writable": False})),
        NodeReport("silent", False, 1.0, {}, silence="ModuleNotFoundError: No module named 'sweeper'"),
        NodeReport("late", False, 1.0, sound, skew_s=-42.0),
        NodeReport("no-store", False, 1.0, sound, unwritten="Read-only file system"),
        NodeReport("other-store", False, 1.0, sound, unread=("a", "b")),
        NodeReport("open", False, 1.0, measured(token=False, mlflow="Connection refused")),
    ]
    console = plain_console()
    print_diagnoses(console, judge(nodes, "http://127.0.0.1:5000"))
    golden.compare("doctor_cluster.txt", printed(console), made_with=("rich",))


# Datasets


def write_faulty_set(root: Path) -> None:
    """A dataset of small pictures and circles: some episodes have one fault each."""
    vector = DatasetFeature("float32", (3,), ["x", "y", "gripper"])
    features = {
        "observation.state": vector,
        "action": vector,
        "observation.image": DatasetFeature("image", (16, 16, 3), ["height", "width", "channels"]),
    }
    generator = np.random.default_rng(0)
    with DatasetWriter(root, fps=10, features=features) as writer:
        for episode in range(8):
            length = 6 if episode == 6 else 30
            angle = np.linspace(0, 5 + episode / 3, length + 1)[:, None] + [0, np.pi / 2, 0]
            path = ((1 + episode / 10) * np.sin(angle)).astype(np.float32)
            path[:, 2] = 0.5  # a gripper that never moves
            columns = {
                "observation.state": path[:-1],
                "action": path[1:].copy(),
                "observation.image": generator.integers(0, 255, (length, 16, 16, 3), np.uint8),
            }
            if episode == 3:
                columns["action"][4, 1] = np.nan
            if episode == 4:
                columns["action"][10, 0] = 500.0
            if episode == 5:
                columns["observation.image"][:] = 0
            writer.add_episode(columns, task="Draw a circle.")


def test_findings_of_a_faulty_dataset(golden: GoldenFiles, capsys, tmp_path: Path):
    write_faulty_set(Path("set"))
    needed = ("rich", "numpy", "pyarrow")
    assert ended("data", "check", "set", "policy.horizon=16") == 1
    # The number of progress lines depends on the speed of the machine.
    out = "✗ set\n" + capsys.readouterr().out.partition("✗ set\n")[2]
    golden.compare("data_check.txt", out, made_with=needed, words=folder_of(tmp_path))
    assert ended("data", "check", "set", "policy.horizon=16", "--json") == 1
    out = capsys.readouterr().out
    golden.compare("data_check_json.txt", out, made_with=needed, words=folder_of(tmp_path))


def test_changes_of_a_repair(golden: GoldenFiles, capsys, tmp_path: Path):
    write_faulty_set(Path("set"))
    path = Path("set/meta/info.json")
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"fps": True, "total_frames": 3}))
    data = Path("set/data/chunk-000/file-000.parquet")
    table = pq.ParquetFile(data).read()
    pq.write_table(table.filter(pc.field("episode_index") != 2), data)
    Path("set/notes.txt").write_text("the gripper was off")
    needed = ("rich", "numpy", "pyarrow")
    assert ended("data", "fix", "set", "--to", "new") == 1
    out = capsys.readouterr().out
    golden.compare("data_fix.txt", out[out.index("\nset\n") :], made_with=needed, words=folder_of(tmp_path))
    assert ended("data", "fix", "set", "--dry-run", "--json") == 1
    out = capsys.readouterr().out
    document = json.loads(out)
    assert document.pop("size_b") > 1_000_000  # the size of the files depends on the version of pyarrow
    golden.compare(
        "data_fix_json.txt",
        json.dumps(document, indent=2) + "\n",
        made_with=needed,
        words=folder_of(tmp_path),
    )


@pytest.mark.slow
def test_portrait_of_a_dataset(golden: GoldenFiles, capsys, tmp_path: Path):
    write_faulty_set(Path("set"))
    assert ended("data", "show", "set") == 0
    # The sizes of files depend on the versions of the packages that compress them.
    out = "set\n\n" + capsys.readouterr().out.partition("\nset\n\n")[2]
    out = re.sub(r"[0-9.]+ (kB|MB)", "SIZE", out)
    golden.compare("data_show.txt", out, made_with=("rich", "pyarrow"), words=folder_of(tmp_path))
