"""`sweeper eval` looks into the policy that is meant, and says what it found."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ended, plain_console, printed, run_in
from golden_files import GoldenFiles
from small_sweeps import ERROR, LR, begin, sweep, this_process

from sweeper.finalists import inspection as inspecting
from sweeper.layout import JOURNAL
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.report.inspection import inspection_page
from sweeper.terminal.finalists.inspection import print_inspection
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.network.policy import build_policy
from trainables.diffusion_policy.training.checkpoint import Checkpoints, Snapshot
from trainables.episodes import EpisodeRecord, read_episodes
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.inspection import Comparison, HardStart, Inspection, Latency, Rollouts, WorstMoment

PUSHT = "gym_pusht/PushT-v0"
SIZES = {"observation.state": 2, "observation.environment_state": 16, "action": 2}
CONFIG = {
    "train.steps": 40,
    "lr_scheduler.warmup_steps": 2,
    "policy.down_dims": [8],
    "policy.n_groups": 4,
    "policy.diffusion_step_embed_dim": 8,
    "policy.horizon": 8,
    "policy.n_action_steps": 4,
    "policy.sampler": "DDIM",
    "policy.num_inference_steps": 4,
    "rollout.env": PUSHT,
    "rollout.max_steps": 8,
}


def write_dataset(root: Path, sizes: dict[str, int] = SIZES) -> Path:
    """Three short episodes of random numbers."""
    features = {name: DatasetFeature("float32", (size,)) for name, size in sizes.items()}
    rng = np.random.default_rng(0)
    with DatasetWriter(root, fps=10, features=features) as writer:
        for _ in range(3):
            episode = {name: rng.random((20, size)).astype(np.float32) for name, size in sizes.items()}
            writer.add_episode(episode, task="Push.")
    return root


def write_checkpoint(trial: Path, dataset: Path) -> Path:
    """A policy of random weights that acts in Push-T."""
    kinds = (FeatureType.STATE, FeatureType.ENV, FeatureType.ACTION)
    features = PolicyFeatures.of(
        Feature(name, kind, (size,)) for (name, size), kind in zip(SIZES.items(), kinds, strict=True)
    )
    statistics = {
        feature.name: {"min": np.zeros(feature.shape), "max": np.full(feature.shape, 512.0)}
        for feature in features.all()
    }
    torch.manual_seed(0)
    config = DiffusionConfig.from_flat(CONFIG | {"dataset.root": str(dataset)})
    weights = build_policy(config.policy, features, statistics).state_dict()
    snapshot = Snapshot(20, config, features, statistics, weights, None, {}, {})
    return Checkpoints(trial / "checkpoints").save(snapshot, best=True)


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the only trial of a sweep ``small``, in a folder with its dataset ``set``."""
    run_in(tmp_path, monkeypatch)
    monkeypatch.setattr(inspecting, "LATENCY_RUNS", 6)
    monkeypatch.setattr(inspecting, "BUSY_S", 0.01)
    folder = tmp_path / "sweeps" / "small"
    folder.mkdir(parents=True)
    spec = sweep(folder, LR, objectives={ERROR: "minimize"}, config=CONFIG)
    journal = Journal(folder / JOURNAL)
    begin(journal, spec, driver=this_process() | {"host": "h"})
    made = folder / "trials" / "0"
    checkpoint = write_checkpoint(made, write_dataset(tmp_path / "set"))
    journal.append(EventKind.TRIAL_START, trial=0, values={"optimizer.lr": 1e-4}, config=CONFIG)
    journal.append(EventKind.REPORT, trial=0, step=20, metrics={ERROR: 1.0}, checkpoint=str(checkpoint))
    journal.append(EventKind.TRIAL_END, trial=0, status="completed", reason="", message="")
    return made


@pytest.mark.slow
def test_a_trial_is_looked_into(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("eval", "small:0", "--episodes", "3", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    folder = Path("small-0-eval")
    assert found["label"] == "small:0"
    assert found["step"] == 20
    rollouts = found["rollouts"]
    assert len(rollouts["records"]) == 3
    assert {record["seed"] for record in rollouts["records"]} == {30_100_000, 30_100_001, 30_100_002}
    assert [start["runs"] for start in rollouts["hard"]] == [4, 4, 4]
    assert found["comparison"]["trained_on"] == "unknown", "the checkpoint does not know its data's content"
    assert found["latency"]["p50_ms"] <= found["latency"]["p95_ms"]
    assert len(found["latency"]["times_ms"]) == 6
    written = {path.name for path in folder.iterdir()}
    assert written == {"index.html", "eval.json", "rollouts.mp4", "denoising.png", "denoising.mp4"}
    assert json.loads((folder / "eval.json").read_text()).items() <= found.items()
    page = (folder / "index.html").read_text()
    assert page.count("data:video/mp4;base64,") == 2
    assert "data:image/png;base64," in page
    evaluated, records = read_episodes(trial / "episodes" / "000020-look.jsonl")
    assert (evaluated.purpose, evaluated.setting, evaluated.environment) == ("look", {}, PUSHT)
    assert [record.episode for record in records] == [0, 1, 2]


@pytest.mark.slow
def test_a_checkpoint_with_a_setting_and_another_dataset(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_dataset(tmp_path / "other")
    checkpoint = trial / "checkpoints" / "000020"
    arguments = ["--dataset", str(other), "--setting", "policy.n_action_steps=2", "--to", "here"]
    assert ended("eval", str(checkpoint), *arguments, "--episodes", "2", "rollout.max_steps=5") == 0
    out = capsys.readouterr().out
    assert "n_action_steps 2" in out
    assert "5 steps" in out
    assert "here/index.html" in out
    found = json.loads(Path("here/eval.json").read_text())
    assert found["changed"] == ["policy.n_action_steps"]
    assert found["comparison"]["dataset"] == str(other)
    assert found["comparison"]["executed_steps"] == 2
    assert not (trial / "episodes").exists()
    (records,) = Path("here/episodes").iterdir()
    evaluated, _ = read_episodes(records)
    assert evaluated.setting == {"policy.n_action_steps": 2, "rollout.max_steps": 5}


@pytest.mark.slow
def test_the_setting_that_was_chosen_for_a_trial_is_used_unless_another_is_named(
    trial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(trial.parents[1] / JOURNAL) as journal:
        journal.append(
            EventKind.TUNED,
            trial=0,
            setting={"policy.n_action_steps": 3, "policy.num_inference_steps": 2},
            metrics={},
            untuned={},
            tried=[],
        )
    arguments = ["small:0", "--episodes", "0", "dataset.root=null", "--json"]
    assert ended("eval", *arguments, "--setting", "policy.num_inference_steps=3") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["setting"]["policy.n_action_steps"] == 3
    assert found["setting"]["policy.num_inference_steps"] == 3


@pytest.mark.slow
def test_what_was_not_asked_for_is_left_out_and_said(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("eval", "small", "--episodes", "0", "dataset.root=null", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rollouts"] is found["comparison"] is found["denoising"] is None
    assert found["latency"]["times_ms"]
    assert any("--dataset" in note for note in found["notes"])
    assert {path.name for path in Path("small-0-eval").iterdir()} == {"index.html", "eval.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--setting", "policy.n_action_stepz=4"], "Did you mean policy.n_action_steps"),
        (["--setting", "policy.horizon=16"], "a trained policy cannot change it"),
        (["--setting", "policy.n_action_steps=9"], "9 actions cannot be executed"),
        (["--env", "gym_nowhere/Task-v0"], "needs the package gym_nowhere"),
        (["--env", "CartPole-v1"], "action space"),
        (["--dataset", "nowhere"], "not a folder"),
        (["--dataset", "robot"], "action of (6,), and the policy's is (2,)"),
        (["policy.horizon=16"], "belongs to the training"),
        (["rollout.maxsteps=3"], "Did you mean rollout.max_steps"),
    ],
)
def test_wrong_input_ends_with_2_and_leaves_nothing(
    trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    write_dataset(tmp_path / "robot", SIZES | {"action": 6})
    before = sorted(tmp_path.iterdir())
    assert ended("eval", "small:0", *arguments) == 2
    out = capsys.readouterr()
    assert words in " ".join((out.out + out.err).split())
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before and path.name != "cache"] == []


@pytest.mark.slow
def test_a_checkpoint_without_statistics_is_refused(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = trial / "checkpoints" / "000020"
    (checkpoint / "statistics.safetensors").unlink()
    assert ended("eval", str(checkpoint)) == 2
    assert "statistics.safetensors is missing" in " ".join(capsys.readouterr().err.split())


@pytest.mark.ray
@pytest.mark.slow
def test_settings_are_not_tuned_without_statistics_or_in_an_environment_that_does_not_fit(
    cluster: Any, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trial / "checkpoints" / "000020"
    tune = ("tune", str(checkpoint), "policy.num_inference_steps=1,2", "--to", str(tmp_path / "episodes"))
    assert ended(*tune, "--env", "CartPole-v1") == 2
    assert "the action space Discrete(2) is not a vector" in " ".join(capsys.readouterr().err.split())
    (checkpoint / "statistics.safetensors").unlink()
    assert ended(*tune) == 2
    assert "statistics.safetensors is missing" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.rglob("*.jsonl.tmp"))
    assert not (tmp_path / "episodes").exists()


@pytest.mark.slow
def test_what_was_measured_stays_if_a_later_part_fails(trial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("trainables.diffusion_policy.inference.opened.OpenedPolicy.compare", interrupted)
    assert ended("eval", "small:0", "--episodes", "2") == 130
    found = json.loads(Path("small-0-eval/eval.json").read_text())
    assert len(found["rollouts"]["records"]) == 2
    assert found["comparison"] is None
    assert (trial / "episodes" / "000020-look.jsonl").is_file()


def inspection(**changes: Any) -> Inspection:
    """What was found about a policy, made up."""
    records = tuple(
        EpisodeRecord(number, 7 + number, number > 0, number / 2, 3.0, 9, 1.0) for number in range(3)
    )
    rollouts = Rollouts(
        PUSHT, records, 2 / 3, (0.208, 0.939), 0.5, (0.1, 0.9), 3.0, None, 9.0,
        hard=(HardStart(0, 7, 0.0, 4, 3),),
    )  # fmt: skip
    comparison = Comparison(
        dataset="set <one>", episodes=(1, 4), trained_on="unknown", provenance="Perhaps trained on.",
        moments=40, wanted_moments=128, samples=24, dimensions=("x", "y"), executed_steps=2, mse=4.0, mae=1.5,
        relative_mse=0.02, mse_nearest=1.0, mse_by_dimension=(3.0, 5.0), mae_by_dimension=(1.0, 2.0),
        action_std_by_dimension=(10.0, 0.0), mse_by_step=(1.0, 7.0, 9.0), mae_by_step=(1.0, 2.0, 2.5),
        std=0.5, std_by_step=((0.25, 0.5), (0.5, 0.75), (1.0, 1.0)), modes={1: 30, 2: 10}, jerk=2.0,
        demonstrated_jerk=1.0, step=3.0, seam=6.0, demonstrated_step=2.5, worst=(WorstMoment(4, 17, 80.0),),
    )  # fmt: skip
    found = Inspection(
        label="small:0",
        checkpoint="sweeps/small/trials/0/checkpoints/000020",
        step=20,
        setting={"policy.n_action_steps": 2, "policy.sampler": None},
        changed=("policy.n_action_steps",),
        command="sweeper eval small:0 --setting 'policy.n_action_steps=2'",
        machine={"host": "h", "cpus": 2, "busy_share": 0.6, "versions": {"sweeper": "0.1"}},
        rollouts=rollouts,
        comparison=comparison,
        latency=Latency(tuple(float(n) for n in range(10, 60)), "cpu", 1, 2),
        notes=["The denoising was not drawn."],
    )
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_the_figures_in_a_terminal(golden: GoldenFiles) -> None:
    console = plain_console()
    print_inspection(console, inspection(), Path("small-0-eval/index.html"))
    golden.compare("eval.txt", printed(console), made_with=("rich",))


def test_the_page_has_everything_and_needs_no_network(tmp_path: Path) -> None:
    page = inspection_page(inspection(), tmp_path)
    assert re.findall(r'(?:src|href)="(?!data:)[^"]*"', page) == []
    assert "http" not in page.replace('charset="utf-8"', "")
    for words in (
        "66.7%",
        "set &lt;one&gt;",
        "Starts that fail most",
        "banner warning",
        "prefers-color-scheme",
    ):
        assert words in page, words
    assert "The machine was busy" in page
    assert page.count("<svg") == 5
    assert "<one>" not in page
    bare = inspection_page(inspection(rollouts=None, comparison=None, latency=None, machine={}), tmp_path)
    assert "<svg" not in bare
    assert "The denoising was not drawn." in bare


@pytest.mark.parametrize("rewards", [(0.0, 0.0, 0.0), (-5.0, -2.0, -1.0), (1e-9, 1e9, 3.0)])
def test_the_page_can_be_drawn_whatever_the_numbers(rewards: tuple[float, ...], tmp_path: Path) -> None:
    records = tuple(EpisodeRecord(n, n, False, reward, reward, 9, 1.0) for n, reward in enumerate(rewards))
    rollouts = Rollouts(PUSHT, records, 0.0, (0.0, 0.56), rewards[0], None, 0.0, None, 9.0)
    latency = Latency((5.0,) * 7, "cpu", 1, 2)
    page = inspection_page(inspection(rollouts=rollouts, latency=latency), tmp_path)
    assert "nan" not in page
    numbers = [float(n) for n in re.findall(r' (?:x|y|width|height)="([^"%]+)"', page)]
    assert min(numbers) >= -20
    assert max(numbers) < 1000
