"""`sweeper export` writes a model card and a bundle, which is a checkpoint again, and uploads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import ended, run_in
from exported_sweeps import exported, step_of
from hub_server import TOKEN, Hub, Model, hub_server
from huggingface_hub import ModelCard, constants

from sweeper.finalists.candidates import find_candidate
from sweeper.finalists.compare import find_contenders
from sweeper.layout import JOURNAL, REPORT
from sweeper.publication.facts import on_hub
from sweeper.records.checkpoints import find_source
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from trainables.deployment.bundle import open_bundle
from trainables.deployment.card import PolicyFacts, model_card

SUCCESS, REWARD = "rollout/success_rate", "rollout/avg_max_reward"
SETTING = {"policy.n_action_steps": 2, "policy.num_inference_steps": 3}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_in(tmp_path, monkeypatch)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "cache" / "token"))
    monkeypatch.setattr("sweeper.publication.facts.BUSY_S", 0.01)
    monkeypatch.setattr("sweeper.publication.facts.RUNS", 5)


def confirm(sweeps: Path, *, trial: int = 0, setting: dict[str, Any] = SETTING, **metrics: float) -> None:
    """Tune and confirm a trial of the sweep."""
    described = [{"trial": trial, "setting": setting}, {"trial": 1 - trial, "setting": {}}]
    measured = {SUCCESS: 0.8, f"{SUCCESS}_low": 0.72, f"{SUCCESS}_high": 0.87, REWARD: 0.91}
    found = [
        {**one, "metrics": {**measured, "episodes": 400.0, **metrics}, "p_best": 0.9, "state": "best"}
        for one in described
    ]
    with Journal(sweeps / "small" / JOURNAL) as journal:
        journal.append(EventKind.TUNED, trial=trial, setting=setting, metrics={}, untuned={}, tried=[])
        journal.append(EventKind.CONFIRM_START, finalists=described, options={"metric": SUCCESS})
        verdict = f"Trial {trial} is the best of 2 finalists, after 400 episodes."
        journal.append(EventKind.CONFIRMED, finalists=found, winner=trial, verdict=verdict, complete=True)


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), " ".join(body.split())


@pytest.mark.slow
def test_the_card_has_the_confirmed_figures_and_what_they_are_worth(
    sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    confirm(sweeps)
    assert exported("small", "--sweeps", str(sweeps), "--to", "out", "--card") == 0
    head, body = card_of(tmp_path / "out")
    assert (head["library_name"], head["pipeline_tag"]) == ("lerobot", "robotics")
    assert {"robotics", "lerobot", "diffusion"} <= set(head["tags"])
    assert head["metrics"] == ["success_rate", "avg_max_reward"]
    assert "datasets" not in head, "a folder is not a dataset of the hub"
    assert "| success rate | 80.0 % | 72.0 % to 87.0 % |" in body
    assert "| mean of the largest rewards | 0.91 | – |" in body
    assert "Measured in 400 episodes" in body
    assert "Trial 0 is the best of 2 finalists, after 400 episodes." in body
    assert "not confirmed" not in body
    assert "| `policy.n_action_steps` | 2 | chosen after the training |" in body
    assert "Nothing here was measured on a real robot." in body
    assert "`somewhere`" in body
    assert "ms for an action chunk (median of" in body
    assert "thread" in body
    assert "| `optimizer.lr` | 0.0001 | searched |" in body
    assert "dataset.root" not in body, "a path on this machine tells nothing of the policy"
    assert "## Conversion to lerobot==0.4.4 The figures were measured before the conversion." in body
    assert "the actions differ by at most" in body
    assert "The model card is out/README.md." in capsys.readouterr().out


@pytest.mark.slow
def test_the_hub_reads_the_card(sweeps: Path, tmp_path: Path) -> None:
    confirm(sweeps)
    assert exported("small", "--sweeps", str(sweeps), "--to", "out", "--card") == 0
    data = ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.model_name) == (
        "lerobot",
        "robotics",
        "small, trial 0",
    )
    found = {one.metric_type: one.metric_value for one in data.eval_results}
    assert found == {"success_rate": 0.8, "avg_max_reward": 0.91}


@pytest.mark.slow
def test_without_a_confirmation_the_card_says_so_first(sweeps: Path, tmp_path: Path) -> None:
    assert exported("small", "--sweeps", str(sweeps), "--to", "out", "--card") == 0
    head, body = card_of(tmp_path / "out")
    assert "metrics" not in head
    assert "model-index" not in head
    assert "**These figures are not confirmed.** No confirmation of small has been done" in body
    assert "| eval/action_mse | 0.3 | – |" in body
    assert "chosen among 2 by such values, so they are too good by chance" in body


@pytest.mark.parametrize(
    ("config", "datasets", "base", "said"),
    [
        (
            {"dataset.repo_id": "lab/pusht", "policy.path": "lab/base"},
            ["lab/pusht"],
            "lab/base",
            "`lab/pusht`.",
        ),
        ({"dataset.repo_id": ["lab/a", "lab/b"]}, ["lab/a", "lab/b"], None, "`lab/a`, `lab/b`."),
        ({"dataset.root": "data/pusht"}, None, None, "`pusht` (a local folder)."),
        ({"dataset.repo_id": "builtin/pusht"}, None, None, "`builtin/pusht` (comes with"),
    ],
)
def test_only_names_of_the_hub_are_linked_there(
    config: dict[str, Any], datasets: list[str] | None, base: str | None, said: str
) -> None:
    facts = PolicyFacts(
        "a",
        "diffusion_policy",
        data={"dataset": config.get("dataset.root") or config.get("dataset.repo_id")},
        base=config.get("policy.path", ""),
        on_hub=on_hub(config),
    )
    head = yaml.safe_load(model_card(facts, target="lerobot==0.4.4").split("---\n")[1])
    assert (head.get("datasets"), head.get("base_model")) == (datasets, base)
    assert f"Trained on {said}" in model_card(facts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "retuned", "said"),
    [
        (["small:0", "--checkpoint", "best"], {}, ""),
        (["small:1", "--checkpoint", "best"], {}, "the trial's last checkpoint, and this is another one"),
        (["small:0"], {"policy.n_action_steps": 1}, "with another inference setting"),
    ],
)
def test_figures_of_another_checkpoint_or_setting_are_not_its_own(
    sweeps: Path, tmp_path: Path, arguments: list[str], retuned: dict[str, Any], said: str
) -> None:
    confirm(sweeps)
    if retuned:
        with Journal(sweeps / "small" / JOURNAL) as journal:
            journal.append(EventKind.TUNED, trial=0, setting=retuned, metrics={}, untuned={}, tried=[])
    assert exported(*arguments, "--sweeps", str(sweeps), "--to", "out", "--card") == 0
    head, body = card_of(tmp_path / "out")
    assert ("metrics" in head) == (not said), "the best checkpoint of trial 0 is its last"
    assert said in body


@pytest.mark.slow
def test_means_over_seeds_are_called_so(sweeps: Path, tmp_path: Path) -> None:
    confirm(sweeps, seeds=3.0)
    assert exported("small", "--sweeps", str(sweeps), "--to", "out", "--card") == 0
    assert (
        "means over 3 policies of this configuration, trained with different seeds"
        in card_of(tmp_path / "out")[1]
    )


@pytest.mark.slow
def test_an_export_with_a_card_is_replaced_by_force(sweeps: Path, tmp_path: Path) -> None:
    arguments = ["--sweeps", str(sweeps), "--to", "out"]
    assert exported("small:0", *arguments, "--card") == 0
    assert exported("small:1", *arguments) == 2
    assert exported("small:1", *arguments, "--force") == 0
    assert not (tmp_path / "out" / "README.md").exists(), "it was the card of another policy"


def bundled(sweeps: Path, *more: str) -> Path:
    assert exported("small", "--sweeps", str(sweeps), "--bundle", "best.zip", *more) == 0
    return Path("best.zip").absolute()


@pytest.mark.slow
def test_a_bundle_has_all_parts_and_is_the_policy_with_its_setting(
    sweeps: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    confirm(sweeps)
    (sweeps / "small" / REPORT).write_text("<html>the report</html>")
    file = bundled(sweeps)
    shown = capsys.readouterr().out
    found = open_bundle(file)
    assert dict(found.setting) == SETTING
    assert found.report is not None
    assert found.report.read_text() == "<html>the report</html>"
    assert found.lerobot is not None
    assert json.loads((found.lerobot / "config.json").read_text())["n_action_steps"] == 2
    assert found.card is not None
    assert "| success rate | 80.0 % |" in found.card.read_text()
    assert "torch" in found.described["versions"]
    assert PolicyFacts.from_json(found.facts).confirmed.episodes == 400
    assert "The bundle is best.zip" in shown
    assert "SHA-256" in shown

    shutil.rmtree(sweeps)
    source = find_source(str(file), Path("sweeps"), None)
    assert (source.trainable, dict(source.setting), source.sweep) == ("diffusion_policy", SETTING, None)
    candidate = find_candidate(str(file), Path("sweeps"))
    assert (candidate.checkpoint, dict(candidate.setting)) == (file, SETTING)
    shutil.copy(file, "copy.zip")
    contenders = find_contenders([str(file), "copy.zip"], Path("sweeps"))
    assert [dict(one.setting) for one in contenders] == [SETTING, SETTING]
    assert exported(str(file), "--to", "again", "--card") == 0
    assert step_of(tmp_path / "again") == 20
    assert json.loads((tmp_path / "again" / "config.json").read_text())["num_inference_steps"] == 3
    assert "| success rate | 80.0 % | 72.0 % to 87.0 % |" in card_of(tmp_path / "again")[1]


@pytest.mark.slow
def test_eval_takes_a_bundle_with_its_setting(sweeps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    confirm(sweeps)
    file = bundled(sweeps)
    capsys.readouterr()
    assert ended("eval", str(file), "dataset.root=null", "--episodes", "0", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["setting"]["policy.n_action_steps"] == 2
    assert set(found["changed"]) == set(SETTING)
    assert found["latency"]["executed_steps"] == 2


@pytest.mark.slow
def test_what_lerobot_cannot_express_is_left_out_of_the_bundle_with_the_reason(
    sweeps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for config in (sweeps / "small").rglob("checkpoints/*/config.json"):
        stated = json.loads(config.read_text())
        stated["config"]["policy.prediction_type"] = "v_prediction"
        config.write_text(json.dumps(stated))
    file = bundled(sweeps)
    shown = " ".join(capsys.readouterr().out.split())
    assert "! The bundle has no lerobot: lerobot==0.4.4 cannot express this policy" in shown
    assert "! The bundle has no report: Reports are switched off" in shown
    assert open_bundle(file).lerobot is None


@pytest.mark.slow
def test_a_bundle_without_averages_acts_without_them_and_is_not_what_was_confirmed(sweeps: Path) -> None:
    confirm(sweeps)
    found = open_bundle(bundled(sweeps, "--no-ema"))
    assert found.setting == {**SETTING, "policy.use_ema": False}
    facts = PolicyFacts.from_json(found.facts)
    assert facts.confirmed is None
    assert "another inference setting" in facts.unconfirmed


@pytest.mark.slow
def test_a_bundle_of_a_bundle_keeps_its_report(sweeps: Path) -> None:
    (sweeps / "small" / REPORT).write_text("<html>the report</html>")
    first = bundled(sweeps)
    assert exported(str(first), "--bundle", "second.zip") == 0
    second = open_bundle("second.zip")
    assert second.report is not None
    assert second.report.read_text() == "<html>the report</html>"
    assert (
        second.described["files"]["policy/model.safetensors"]
        == (open_bundle(first).described["files"]["policy/model.safetensors"])
    )


@pytest.mark.slow
def test_json_has_what_was_written(sweeps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundled(sweeps, "--json")
    told = json.loads(capsys.readouterr().out)
    assert (told["sweep"], told["trial"], told["folder"], told["pushed"]) == ("small", 1, None, None)
    assert told["bundle"]["bytes"] == Path("best.zip").stat().st_size
    assert len(told["bundle"]["sha256"]) == 64


@pytest.mark.slow
def test_a_dry_run_lists_what_would_be_uploaded(sweeps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["small", "--sweeps", str(sweeps), "--push", "lab/pusht", "--dry-run", "--private"]
    assert exported(*arguments) == 0
    shown = capsys.readouterr().out
    assert "Would upload to https://huggingface.co/lab/pusht:" in shown
    for name in ("README.md", "config.json", "model.safetensors", "policy_preprocessor.json"):
        assert f"  {name} (" in shown
    assert "a new model would be private, a public one refused" in shown
    assert "has no token" in shown
    assert "Exported to" not in shown, "the folder was a temporary one"
    assert exported(*arguments, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["folder"], told["pushed"]["dry_run"], told["pushed"]["repo"]) == (None, True, "lab/pusht")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Name what to write: --to DIR, --bundle FILE.zip, or --push OWNER/NAME."),
        (["--bundle", "b.zip", "--card"], "--card: the model card is written into the export"),
        (["--to", "out", "--private"], "--private belongs to an upload"),
        (["--to", "out", "--dry-run"], "--dry-run belongs to an upload"),
        (["--push", "pusht", "--dry-run"], "--push pusht: not a name on the hub. Write OWNER/NAME"),
        (["--push", "lab/pusht"], "the hub's client has no token. Log in with `hf auth login`"),
        (["--bundle", "b.tar"], "b.tar: a bundle is a ZIP archive. Name a file that ends in .zip."),
    ],
)
def test_wrong_options_end_with_2_before_anything_is_written(
    sweeps: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    before = set(tmp_path.iterdir())
    assert exported("small", "--sweeps", str(sweeps), *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert set(tmp_path.iterdir()) == before


@pytest.mark.slow
def test_a_damaged_bundle_ends_with_2(sweeps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = bundled(sweeps)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    for command in (["export", str(file), "--to", "out"], ["eval", str(file)], ["tune", str(file)]):
        assert ended(*command) == 2
        assert "changed since the bundle was made" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_server() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.mark.slow
def test_the_hubs_own_client_uploads_the_export_and_its_card(
    sweeps: Path, tmp_path: Path, hub: Hub, capfd: pytest.CaptureFixture[str]
) -> None:
    confirm(sweeps)
    arguments = ["small", "--sweeps", str(sweeps), "--push", "lab/pusht", "--private"]
    assert exported(*arguments, "--to", "out") == 0
    model = hub.models["lab/pusht"]
    assert model.private
    assert model.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert b"| success rate | 80.0 % |" in model.files["README.md"]
    assert b"lerobot-record --policy.path=lab/pusht" in model.files["README.md"]
    assert model.commits == ["Export small, trial 0"]
    shown = capfd.readouterr()
    assert f"Uploaded 8 files to lab/pusht, which is private: {hub.url}/lab/pusht/commit/" in shown.out
    assert TOKEN not in shown.out + shown.err
    assert exported(*arguments) == 0, "a second upload is a second commit"
    assert len(model.commits) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "token", "said"),
    [
        (
            ["lab/public", "--private"],
            TOKEN,
            "--private: lab/public exists and is public. Nothing was uploaded.",
        ),
        (["other/pusht"], TOKEN, "The token may not write to other/pusht."),
        (
            ["lab/pusht"],
            "hf_wrong_0123456789",
            "the hub does not accept the token. Log in with `hf auth login`",
        ),
    ],
)
def test_what_the_hub_refuses_is_reported_without_the_token(
    sweeps: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    token: str,
    said: str,
) -> None:
    hub.models["lab/public"] = Model()
    monkeypatch.setenv("HF_TOKEN", token)
    assert exported("small", "--sweeps", str(sweeps), "--push", *arguments) == 2
    shown = capfd.readouterr()
    assert said in " ".join(shown.err.split())
    assert token not in shown.out + shown.err
    assert {name: model.files for name, model in hub.models.items() if model.files} == {}


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_not_the_users_fault(
    sweeps: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert exported("small", "--sweeps", str(sweeps), "--push", "lab/pusht") == 1
    assert "lab/pusht was not uploaded" in " ".join(capfd.readouterr().err.split())
