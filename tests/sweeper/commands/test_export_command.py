"""`sweeper export` takes the policy that a person means, and says which that is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from exported_sweeps import exported, step_of

from sweeper.layout import JOURNAL
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal


@pytest.mark.slow
def test_of_a_sweep_the_best_trials_last_checkpoint_is_written(sweeps: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert exported("small", "--sweeps", str(sweeps), "--to", str(out)) == 0
    assert step_of(out) == 40
    said = capsys.readouterr().out
    chosen = "trial 1 of small, the best of its ranking: its last checkpoint, step 40, eval/action_mse 0.3"
    assert chosen in said
    assert "luck" not in said
    assert "the actions differ by at most" in said
    assert "lerobot==0.4.4" in said
    # safetensors 0.8 writes files that only their owner may read; a robot often runs as another user.
    assert len({file.stat().st_mode for file in out.iterdir()}) == 1


@pytest.mark.slow
def test_the_confirmed_winner_is_written_with_its_inference_setting(
    sweeps: Path, tmp_path: Path, capsys
) -> None:
    setting = {"policy.n_action_steps": 2, "policy.num_inference_steps": 3}
    described = [{"trial": 0, "setting": setting}, {"trial": 1, "setting": {}}]
    fresh = [one | {"metrics": {"eval/action_mse": 0.4375}} for one in described]
    with Journal(sweeps / "small" / JOURNAL) as journal:
        journal.append(EventKind.TUNED, trial=0, setting=setting, metrics={}, untuned={}, tried=[])
        journal.append(EventKind.CONFIRM_START, finalists=described, options={})
        journal.append(EventKind.CONFIRMED, finalists=fresh, winner=0, verdict="Trial 0.", complete=True)
    out = tmp_path / "out"
    assert exported("small", "--sweeps", str(sweeps), "--to", str(out)) == 0
    assert step_of(out) == 20
    said = " ".join(capsys.readouterr().out.split())
    assert "trial 0 of small, the confirmed winner: its last checkpoint" in said
    assert "eval/action_mse 0.4 in the search and 0.4375 on fresh starts" in said
    assert "n_action_steps 2, num_inference_steps 3" in said
    config = json.loads((out / "config.json").read_text())
    assert (config["n_action_steps"], config["num_inference_steps"]) == (2, 3)


@pytest.mark.slow
def test_the_luckiest_checkpoint_is_written_on_request_with_a_warning(
    sweeps: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert exported("small", "--sweeps", str(sweeps), "--to", str(out), "--checkpoint", "best") == 0
    assert step_of(out) == 30
    said = capsys.readouterr().out
    assert "best of 2 evaluations, so its eval/action_mse of 0.1 is partly luck" in said
    assert "last evaluation, 0.3. To export that one, use --checkpoint last." in said


@pytest.mark.slow
def test_without_a_last_checkpoint_the_best_is_written(sweeps: Path, tmp_path: Path, capsys) -> None:
    trial = sweeps / "small" / "trials" / "1"
    with Journal(sweeps / "small" / JOURNAL) as journal:
        dropped = [str(trial / "checkpoints" / "000040")]
        journal.append(EventKind.CHECKPOINTS_DROPPED, trial=1, folders=dropped)
    assert exported("small", "--sweeps", str(sweeps), "--to", str(tmp_path / "out")) == 0
    assert step_of(tmp_path / "out") == 30
    assert "partly luck" in capsys.readouterr().out


@pytest.mark.slow
def test_the_folder_of_a_trial_is_the_trial(sweeps: Path, tmp_path: Path, capsys) -> None:
    assert exported(str(sweeps / "small" / "trials" / "1"), "--to", str(tmp_path / "out")) == 0
    assert step_of(tmp_path / "out") == 40
    assert "trial 1 of small: its last checkpoint" in capsys.readouterr().out


@pytest.mark.slow
def test_a_trial_and_its_last_checkpoint_can_be_named(sweeps: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    arguments = ("--sweeps", str(sweeps), "--to", str(out), "--checkpoint", "last", "--json")
    assert exported("small:1", *arguments, "--target", "lerobot==0.6.1") == 0
    assert step_of(out) == 40
    told = json.loads(capsys.readouterr().out)
    assert (told["sweep"], told["trial"], told["target"]) == ("small", 1, "lerobot==0.6.1")
    assert Path(told["checkpoint"]).name == "000040"
    assert told["notes"]


@pytest.mark.slow
def test_a_checkpoint_can_be_named_by_its_folder(sweeps: Path, tmp_path: Path, capsys) -> None:
    trial = sweeps / "small" / "trials" / "0"
    assert exported(str(trial / "checkpoints" / "000020"), "--to", str(tmp_path / "out")) == 0
    assert step_of(tmp_path / "out") == 20
    assert exported(str(trial), "--to", str(tmp_path / "again")) == 0
    assert step_of(tmp_path / "again") == 20


@pytest.mark.slow
def test_a_sweep_that_was_moved_has_its_checkpoints_still(sweeps: Path, tmp_path: Path, capsys) -> None:
    moved = shutil.move(sweeps / "small", tmp_path / "elsewhere")
    assert exported(str(moved), "--to", str(tmp_path / "out")) == 0
    assert step_of(tmp_path / "out") == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "more", "said"),
    [
        ("smal", [], "Did you mean 'small'?"),
        ("small:7", [], "there is no trial 7. Its trials: 0 to 2."),
        ("small:2", [], "trial 2 wrote no checkpoint"),
        ("small", ["--target", "onnx"], "can write: lerobot==0.4.4, lerobot==0.6.1"),
    ],
)
def test_what_cannot_be_exported_is_told_and_ends_with_2(
    sweeps: Path, tmp_path: Path, capsys, source: str, more: list[str], said: str
) -> None:
    assert exported(source, "--sweeps", str(sweeps), "--to", str(tmp_path / "out"), *more) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert said in error
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_that_is_gone_is_told(sweeps: Path, tmp_path: Path, capsys) -> None:
    shutil.rmtree(sweeps / "small" / "trials" / "1" / "checkpoints")
    assert exported("small", "--sweeps", str(sweeps), "--to", str(tmp_path / "out")) == 2
    assert "is gone from" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_an_earlier_export_is_replaced_only_by_force(sweeps: Path, tmp_path: Path, capsys) -> None:
    arguments = ["--sweeps", str(sweeps), "--to", str(tmp_path / "out")]
    assert exported("small:0", *arguments) == 0
    assert exported("small:1", *arguments) == 2
    assert step_of(tmp_path / "out") == 20
    assert exported("small:1", *arguments, "--force") == 0
    assert step_of(tmp_path / "out") == 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--format", "tflite"],
            "--format tflite: diffusion_policy cannot write it. Allowed: lerobot, onnx, torch.",
        ),
        (
            ["--format", "onnx", "--precision", "int4"],
            "--precision int4: unknown. Allowed: fp32, fp16, int8.",
        ),
        (
            ["--parts", "steps", "--episodes", "3"],
            "--parts, --episodes: only for other formats than lerobot.",
        ),
        (["--format", "torch", "--precision", "fp16"], "only --format onnx has other precisions than fp32"),
    ],
)
def test_a_format_that_cannot_be_written_is_told_and_ends_with_2(
    sweeps: Path, tmp_path: Path, capsys, more: list[str], said: str
) -> None:
    assert exported("small", "--sweeps", str(sweeps), "--to", str(tmp_path / "out"), *more) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_several_formats_are_written_into_folders_of_their_names(
    sweeps: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    arguments = (
        "--sweeps",
        str(sweeps),
        "--to",
        str(out),
        "--format",
        "lerobot",
        "--format",
        "torch",
        "--json",
    )
    assert exported("small", *arguments, "--parts", "steps") == 0
    assert step_of(out / "lerobot") == 40
    told = json.loads(capsys.readouterr().out)
    assert (told["folder"], told["target"]) == (str(out / "lerobot"), "lerobot==0.4.4")
    (torch_,) = told["formats"]
    assert torch_["folder"] == str(out / "torch")
    files = [file["name"] for file in torch_["report"]["variants"][0]["files"]]
    assert files == ["encoder.pt2", "step.pt2"]
    assert {*files, "report.json", "README.md", "run.py", "example.npz"} == {
        path.name for path in (out / "torch").iterdir()
    }
    assert exported("small", *arguments) == 2
    assert "already contains" in " ".join(capsys.readouterr().err.split())
