"""`sweeper init`: the file that it writes passes check and fits the schema, whatever it is made from."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import jsonschema
import optuna
import pytest
import yaml
from command_line import ended, run_in

from sweeper.spec.schema import space_schema
from sweeper.spec.space import Parameter
from sweeper.spec.space_file import combinations
from sweeper.spec.space_file.load import load_spec
from tests.trainables.dataset.demonstrations import record
from trainables import registry
from trainables.dataset.format.schema import DatasetFeature

OTHER_TOOLS = Path(__file__).parents[1] / "other_tools"
SHARED = Path(__file__).parents[4] / "shared"
TRAINABLE = registry.load("diffusion_policy")
SCHEMA = jsonschema.Draft7Validator(space_schema(TRAINABLE))
PAGES = Path(__file__).parents[3] / "docs"
COMMANDS = [
    line
    for page in ("spaces.md", "quickstart.md")
    for block in re.findall(r"```sh\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)
    for line in block.splitlines()
    if line.startswith("sweeper init ")
]
LINE = "# yaml-language-server: $schema=space.schema.json"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    run_in(tmp_path, monkeypatch)
    monkeypatch.setattr(combinations, "RANDOM_DRAWS", 20)
    monkeypatch.setattr(combinations, "DRAWS_PER_VALUE", 1)


@pytest.fixture(scope="session")
def arm(tmp_path_factory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "my_arm", (30,) * 6, camera=False)


def checked(file: str) -> dict[str, object]:
    """The space in a file, after `check` and the schema accepted it."""
    text = Path(file).read_text()
    assert text.splitlines()[0] == LINE
    space = yaml.safe_load(text)
    assert [error.message for error in SCHEMA.iter_errors(space)] == []
    load_spec(file)
    return space


def launchable(file: str) -> None:
    """Check the space in a file against its dataset, as `launch` does, at the first value of each field."""
    spec = load_spec(file)
    first = {parameter.name: form_start(parameter) for parameter in spec.space.parameters}
    assert TRAINABLE.preflight({**spec.config, **first}, Path("cache").absolute()) == []


def form_start(parameter: Parameter) -> object:
    return parameter.values[0] if parameter.values else parameter.low


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("--from-wandb", "wandb.yaml"),
        ("--from-wandb", "papers.yaml"),
        ("--from-wandb", "lerobot_keys.yaml"),
        ("--from-hydra", "hydra_sweeper.yaml"),
        ("--from-hydra", "hydra_pasted.yaml"),
    ],
)
def test_a_file_of_another_tool_becomes_a_space(option: str, file: str, capsys):
    assert ended("init", "space.yaml", option, str(OTHER_TOOLS / file)) == 0

    checked("space.yaml")
    printed = capsys.readouterr().out
    assert "✓ Wrote space.yaml, from" in printed
    assert "sweeper check space.yaml" in printed


def test_the_space_of_a_sweep_of_wandb_looks_as_it_should(golden, capsys):
    shutil.copy(OTHER_TOOLS / "wandb.yaml", "wandb.yaml")
    assert ended("init", "space.yaml", "--from-wandb", "wandb.yaml") == 0

    golden.compare("init_wandb.txt", capsys.readouterr().out + "\n" + Path("space.yaml").read_text())


def test_the_space_of_a_dataset_looks_as_it_should(golden, capsys, arm):
    shutil.copytree(arm, "my_arm")
    assert ended("init", "--dataset", "my_arm") == 0

    golden.compare("init_dataset.txt", capsys.readouterr().out + "\n" + Path("my_arm.yaml").read_text())
    checked("my_arm.yaml")


@pytest.mark.slow
def test_a_dataset_with_cameras_gets_a_space_for_cameras(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    wrist = {
        "observation.images.wrist": DatasetFeature("video", (32, 48, 3), ["height", "width", "channels"])
    }

    def with_wrist(_episode, columns):
        columns["observation.images.wrist"] = columns["observation.images.front"]

    record(tmp_path / "two", (20, 25, 30), extra=wrist, change=with_wrist)
    assert ended("init", "space.yaml", "--dataset", str(tmp_path / "two")) == 0

    config = checked("space.yaml")["config"]
    assert config["policy.use_separate_rgb_encoder_per_camera"] is True
    assert "policy.resize_shape" not in config  # both are small, and equal
    assert config["dataset.holdout_fraction"] > 0.5 / 3
    assert config["train.precision"] == "fp32"  # gpu_per_worker is auto, and no GPU is visible
    launchable("space.yaml")


def test_a_long_path_is_printed_on_one_line(arm, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    dataset = tmp_path / ("a_long_name_of_a_folder" * 4)
    dataset.symlink_to(arm)
    assert ended("init", "space.yaml", "--dataset", str(dataset)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"✓ Wrote space.yaml, from the dataset {dataset}" in lines
    assert any(line.startswith("    dataset.root ") and line.endswith(f" {dataset}") for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("lengths", [(1,), (2, 2), (5, 200), (40,) * 3])
def test_a_dataset_of_any_length_gets_a_space(tmp_path, lengths: tuple[int, ...]):
    record(tmp_path / "odd", lengths, camera=False, fps=50)
    assert ended("init", "space.yaml", "--dataset", str(tmp_path / "odd")) == 0
    checked("space.yaml")
    launchable("space.yaml")


def test_a_command_of_lerobot_becomes_a_space_around_it(capsys):
    command = "lerobot-train --policy.type=diffusion --dataset.repo_id=me/arm --policy.horizon=32 --warp=9"
    command += " --policy.noise_schedule_type=DDIM"
    assert ended("init", "space.yaml", "--", *command.split()) == 0

    space = checked("space.yaml")
    assert space["config"]["dataset.repo_id"] == "me/arm"
    # What LeRobot does if the command does not say it.
    assert space["config"]["train.steps"] == 100_000
    assert space["config"]["train.batch_size"] == 8
    assert space["config"]["optimizer.name"] == "adam"
    assert space["parameters"]["policy.horizon"] == {"values": [16, 32, 64]}
    printed = capsys.readouterr().out
    assert "warp 9: There is nothing here for it." in printed
    assert "Did you mean policy.noise_scheduler_type?" in " ".join(printed.split())
    assert "policy.preset: lerobot-0.6" in " ".join(printed.split())


def test_a_command_without_a_file_is_named_after_its_dataset():
    assert ended("init", "--", "lerobot-train", "--policy.type=diffusion", "--dataset.repo_id=me/arm") == 0
    assert checked("arm.yaml")["name"] == "arm"


def test_a_file_of_settings_in_a_command_is_read(tmp_path):
    settings = {"policy": {"type": "diffusion", "horizon": 32}, "steps": 700, "batch_size": 16}
    Path("train_config.json").write_text(json.dumps(settings))
    assert (
        ended("init", "space.yaml", "--", "lerobot-train", "--config_path=train_config.json", "--steps=900")
        == 0
    )

    config = checked("space.yaml")["config"]
    assert (config["train.steps"], config["train.batch_size"]) == (900, 16)


def test_a_checkpoint_is_found_below_the_folder_of_its_run():
    folder = Path("outputs/train/run/checkpoints/last/pretrained_model")
    folder.mkdir(parents=True)
    (folder / "train_config.json").write_text(json.dumps({"policy": {"type": "diffusion"}, "steps": 3000}))
    assert ended("init", "space.yaml", "--from-lerobot", "outputs/train/run") == 0
    assert checked("space.yaml")["config"]["train.steps"] == 3000


def test_what_is_no_range_and_no_list_is_left_out_with_the_reason(capsys):
    Path("sweep.yaml").write_text(
        "parameters:\n  lr: {max: 1e-3}\n  horizon: {values: [16, 32]}\n  batch_size: {values: 64}\n"
        "  steps: {value: 20k}\n  n_action_steps: {distribution: int_uniform, min: 8, max: 1}\n"
    )
    assert ended("init", "space.yaml", "--from-wandb", "sweep.yaml") == 0
    assert set(checked("space.yaml")["parameters"]) == {"policy.horizon"}
    told = " ".join(capsys.readouterr().out.split())
    for name in ("optimizer.lr", "train.batch_size", "train.steps", "policy.n_action_steps"):
        assert name in told.partition("Not carried over")[2]


def test_dashes_of_a_page_are_those_of_flags():
    command = "lerobot-train —policy.type=diffusion –steps=3000 —batch_size 16"
    assert ended("init", "space.yaml", "--", command) == 0
    config = checked("space.yaml")["config"]
    assert (config["train.steps"], config["train.batch_size"]) == (3000, 16)


def test_a_file_with_a_byte_order_mark_is_read():
    stated = json.dumps({"policy": {"type": "diffusion"}, "steps": 3000})
    Path("train_config.json").write_text(stated, encoding="utf-8-sig")
    assert ended("init", "space.yaml", "--from-lerobot", "train_config.json") == 0
    assert checked("space.yaml")["config"]["train.steps"] == 3000


@pytest.mark.parametrize("stated", [{"model_type": "vit"}, {"config": {}, "features": {}}, {}])
def test_a_file_of_something_else_is_not_taken_for_a_policy(stated, capsys):
    Path("config.json").write_text(json.dumps(stated))
    assert ended("init", "space.yaml", "--from-lerobot", "config.json") == 2
    assert "names no type of a policy" in " ".join(capsys.readouterr().err.split())
    assert not Path("space.yaml").exists()


@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference checkpoint is not on this machine")
def test_the_checkpoint_of_a_real_training_becomes_a_space():
    tree = SHARED / "reference" / "lerobot_checkpoint_tree"
    assert ended("init", "space.yaml", "--from-lerobot", str(tree)) == 0
    assert checked("space.yaml")["config"]["policy.down_dims"] == [32, 64]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the Push-T dataset is not on this machine")
def test_push_t_is_recognised():
    assert ended("init", "space.yaml", "--dataset", str(SHARED / "data" / "pusht")) == 0
    space = checked("space.yaml")
    assert space["config"]["rollout.env"] == "gym_pusht/PushT-v0"
    assert space["metric"]["name"] == "rollout/success_rate"
    launchable("space.yaml")


@pytest.mark.slow
def test_the_directions_of_several_objectives_are_not_lost_in_silence(capsys):
    study = optuna.create_study(storage="sqlite:///two.db", directions=["maximize", "minimize"])
    study.ask({"learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)})
    assert ended("init", "space.yaml", "--from-optuna", "two.db") == 0
    assert "directions [maximize, minimize]: A study does not name its objectives." in " ".join(
        capsys.readouterr().out.split()
    )


@pytest.mark.slow
def test_an_optuna_study_becomes_a_space():
    study = optuna.create_study(study_name="arm", storage="sqlite:///study.db", direction="minimize")
    study.ask({"learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)})
    assert ended("init", "space.yaml", "--from-optuna", "study.db") == 0

    space = checked("space.yaml")
    assert list(space["parameters"]) == ["optimizer.lr"]
    assert space["metric"]["goal"] == "minimize"


def test_a_dataset_completes_another_source(arm, tmp_path):
    Path("sweep.yaml").write_text("parameters:\n  lr: {min: 1e-5, max: 1e-3, log: true}\n")
    assert ended("init", "space.yaml", "--from-wandb", "sweep.yaml", "--dataset", str(arm)) == 0

    space = checked("space.yaml")
    assert space["config"]["dataset.root"] == str(arm)
    assert space["config"]["policy.down_dims"] == [128, 256, 512]
    assert list(space["parameters"]) == ["optimizer.lr"]


@pytest.mark.slow
def test_a_file_is_replaced_only_on_request(capsys):
    Path("space.yaml").write_text("mine\n")
    arguments = ("init", "space.yaml", "--from-wandb", str(OTHER_TOOLS / "wandb.yaml"))

    assert ended(*arguments) == 2
    assert "space.yaml: exists already" in capsys.readouterr().err
    assert Path("space.yaml").read_text() == "mine\n"
    assert ended(*arguments, "--force") == 0
    checked("space.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("where", [["-"], ["--stdout"]])
def test_the_file_can_be_printed(where: list[str], capsys):
    assert ended("init", *where, "--from-wandb", str(OTHER_TOOLS / "wandb.yaml")) == 0

    printed = capsys.readouterr()
    Path("piped.yaml").write_text(printed.out)
    checked("piped.yaml")
    assert "Printed a space" in printed.err
    assert sorted(path.name for path in Path().iterdir()) == ["piped.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name what to begin from"),
        (["space.yaml"], "name what to begin from"),
        (["space", "--dataset", "x"], "the name of a space file ends in .yaml"),
        (["space.yaml", "--from-wandb", "none.yaml"], "the file does not exist"),
        (["space.yaml", "--from-lerobot", "none"], "none does not exist"),
        (["space.yaml", "--from-lerobot", "."], "has no train_config.json or config.json"),
        (["space.yaml", "--dataset", "none"], "none"),
        (["space.yaml", "--", "lerobot-train"], "has no settings"),
        (["space.yaml", "--", "lerobot-train", "--policy.type=act"], "Only diffusion policies"),
        (["space.yaml", "lerobot-train", "--policy.type=diffusion"], "Write -- before the command"),
        (["space.yaml", "--from-wandb", "a.yaml", "--from-hydra", "b.yaml"], "name one source"),
        (["space.yaml", "--from-optuna", "none.db"], "none.db is not a file"),
    ],
)
def test_what_cannot_be_read_is_explained(arguments: list[str], words: str, capsys):
    assert ended("init", *arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not Path("space.yaml").exists()


def test_the_pages_have_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_pages_works(command: str, arm, tmp_path, monkeypatch, capsys):
    """In a folder that has what they name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(arm, tmp_path / "data" / "my_arm")
    shutil.copy(OTHER_TOOLS / "wandb.yaml", "sweep.yaml")
    run = Path("outputs/train/run/checkpoints/last/pretrained_model")
    run.mkdir(parents=True)
    (run / "train_config.json").write_text(json.dumps({"policy": {"type": "diffusion"}, "steps": 3000}))
    _program, *arguments = shlex.split(command, comments=True)

    # As a shell expands it.
    assert ended(*(word.replace("~", str(tmp_path)) for word in arguments)) == 0

    printed = capsys.readouterr().out
    if "-" in arguments:
        Path("printed.yaml").write_text(printed)
    checked("printed.yaml" if "-" in arguments else "my_arm.yaml")
