"""`sweeper data`: what it prints, how it ends, and that the dataset stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import ended, run_in

from sweeper.spec.space_file.overrides import read_config
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.interface import ConfigError
from trainables.registry import load


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    run_in(tmp_path, monkeypatch)


def write(name: str = "set", bad: int | None = None, image: bool = False) -> Path:
    """A small dataset of circles; the episode ``bad`` has an action that is no number."""
    vector = DatasetFeature("float32", (2,), ["x", "y"])
    features = {"observation.state": vector, "action": vector}
    if image:
        features["observation.image"] = DatasetFeature("image", (16, 16, 3), ["height", "width", "channels"])
    generator = np.random.default_rng(0)
    with DatasetWriter(Path(name), fps=10, features=features) as writer:
        for episode in range(5):
            angle = np.linspace(0, 5 + episode / 3, 31)[:, None] + [0, np.pi / 2]
            path = ((1 + episode / 10) * np.sin(angle)).astype(np.float32)
            columns = {"observation.state": path[:-1], "action": path[1:].copy()}
            if image:
                columns["observation.image"] = generator.integers(0, 255, (30, 16, 16, 3), np.uint8)
            if episode == bad:
                columns["action"][4, 1] = np.nan
            writer.add_episode(columns, task="Draw a circle.")
    return Path(name)


@pytest.mark.slow
def test_a_sound_dataset_ends_with_0(capsys):
    write()
    assert ended("data", "check", "set") == 0
    out = capsys.readouterr().out
    assert "✓ set" in out
    assert "v3.0, 5 episodes, 150 frames, 10 fps" in out
    assert "few_episodes" in out
    assert out.rstrip().endswith("1 warning.")


@pytest.mark.slow
def test_the_dataset_of_a_space_is_checked_with_its_settings(capsys):
    write(bad=3)
    Path("space.yaml").write_text(
        "trainable: diffusion_policy\n"
        "config: {dataset.root: set, dataset.exclude_episodes: [3]}\n"
        "parameters: {optimizer.lr: {min: 1e-5, max: 1e-3}}\n"
        "metric: {name: eval/action_mse}\nbudget: {trials: 2}\n"
    )
    assert ended("data", "check", "space.yaml") == 0
    assert "v3.0, 4 episodes" in capsys.readouterr().out
    assert ended("data", "check", "space.yaml", "dataset.exclude_episodes=[]") == 1
    # More actions than the default of the horizon allows, but none that is searched.
    text = (
        Path("space.yaml")
        .read_text()
        .replace("{optimizer.lr", "{policy.horizon: {values: [24, 32]}, optimizer.lr")
    )
    Path("far.yaml").write_text(text.replace("config: {", "config: {policy.n_action_steps: 20, "))
    assert ended("data", "check", "far.yaml") == 0
    assert ended("data", "check", "real_robot.yaml", "dataset.root=set") == 1
    assert "episode 3, frame 4" in capsys.readouterr().out


@pytest.mark.slow
def test_a_dataset_is_preferred_to_a_space_of_its_name(capsys):
    write("real_robot")
    assert ended("data", "check", "real_robot") == 0
    assert "✓ real_robot" in capsys.readouterr().out


@pytest.mark.slow
def test_an_error_ends_with_1_and_names_the_option(capsys):
    write(bad=3)
    assert ended("data", "check", "set") == 1
    out = capsys.readouterr().out
    assert "✗ action  not_finite" in out
    assert "is nan in episode 3, frame 4." in out
    assert "set dataset.exclude_episodes: [3]" in out
    assert "1 error, 1 warning." in out
    assert "To train without the errors, set dataset.exclude_episodes: [3]" in out
    assert ended("data", "check", "set", "dataset.exclude_episodes=[3]") == 0


@pytest.mark.slow
def test_json_is_one_document_with_every_field(capsys):
    write(bad=3, image=True)
    assert ended("data", "check", "set", "--json") == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert "Checking set" in err
    assert list(document) == [
        "root",
        "version",
        "fps",
        "episodes",
        "frames",
        "pictures",
        "skipped",
        "exclude_episodes",
        "counts",
        "findings",
    ]
    assert document["counts"] == {"error": 1, "warning": 1, "note": 0}
    assert document["pictures"] == {"observation.image": 150}
    assert document["exclude_episodes"] == "[3]"
    first = document["findings"][0]
    assert list(first) == ["check", "severity", "where", "problem", "why", "remedy", "episodes", "files"]
    assert (first["check"], first["severity"], first["episodes"]) == ("not_finite", "error", [3])


def test_a_dataset_that_cannot_be_examined_is_a_finding(capsys):
    (Path("set") / "meta").mkdir(parents=True)
    (Path("set") / "meta" / "info.json").write_text("{")
    assert ended("data", "check", "set", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["version"] is None
    assert [found["check"] for found in document["findings"]] == ["unreadable_dataset"]
    assert ended("data", "check", "set") == 1
    assert "✗ set" in capsys.readouterr().out


def test_what_could_not_be_checked_is_listed_above_the_findings(capsys):
    root = write()
    for path in (root / "data").rglob("*.parquet"):
        path.write_bytes(b"")
    assert ended("data", "check", "set") == 1
    out = capsys.readouterr().out
    assert "not checked: states and actions (the data files cannot be read)" in out
    assert "few_episodes" in out
    assert ended("data", "check", "set", "--json") == 1
    document = json.loads(capsys.readouterr().out)
    assert document["skipped"] == ["states and actions (the data files cannot be read)"]
    assert document["findings"][0]["files"] == ["set/data/chunk-000/file-000.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "'nowhere' is not a folder"),
        (["set", "policy.horizont=32"], "Did you mean policy.horizon?"),
        (["set", "policy.horizon=x"], "'x' is not an int"),
        (["set", "policy.horizon=7"], "7 is not a multiple of 8"),
        (["set", "horizon"], "is not an override"),
        (["set", "dataset.exclude_episodes=[9]"], "[9] do not exist"),
        (["set", "--trainable", "other"], "no trainable is called 'other'"),
        (["set", "dataset.episodes=0–2"], "Write 0-2."),
        (["~nobody-of-this-name/set"], "'~nobody-of-this-name/set' is not a folder"),
        (["x" * 300], "cannot be opened: File name too long"),
        (["set/meta/info.json"], "is a file, not a folder. It is inside a dataset: "),
        (["set.zip"], "Unpack it first"),
    ],
)
def test_wrong_input_ends_with_2_and_says_what_to_do(capsys, arguments, words):
    write()
    Path("set.zip").write_bytes(b"PK")
    assert ended("data", "check", *arguments) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_fields_are_read_as_a_configuration():
    trainable = load("diffusion_policy")
    config = read_config(
        trainable, ["config.policy.horizon=32", "batch_size=16", "dataset.root=a: b#c", "policy.horizon=8"]
    )
    assert config == {"policy.horizon": 8, "train.batch_size": 16, "dataset.root": "a: b#c"}
    with pytest.raises(ConfigError) as caught:
        read_config(trainable, ["policy.horizon=", "lr=1"])
    assert len(caught.value.faults) == 2


@pytest.mark.slow
def test_show_says_what_it_is_and_draws_it(capsys):
    root = write(image=True)
    before = sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*"))
    assert ended("data", "show", "set") == 0
    out = capsys.readouterr().out
    assert "LeRobot v3.0" in out
    assert "150 at 10 fps, 15.0 s" in out
    assert "Draw a circle." in out
    for name in ("contact-sheet-observation.image.png", "distributions.png"):
        assert f"set-portrait/{name}" in out
        assert (Path("set-portrait") / name).is_file()
    assert sorted((path, path.stat().st_mtime_ns) for path in root.rglob("*")) == before


@pytest.mark.slow
def test_show_writes_where_it_is_told_and_prints_json(capsys):
    write()
    assert ended("data", "show", "set", "--to", "pictures/new", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pictures"] == ["pictures/new/distributions.png"]
    assert document["episodes"] == 5
    assert not Path("set-portrait").exists()


def test_show_writes_nothing_into_the_dataset(capsys, monkeypatch):
    root = write().resolve()
    assert ended("data", "show", "set", "--to", "set/pictures") == 2
    monkeypatch.chdir(root)
    assert ended("data", "show", ".") == 2
    assert "is inside the dataset" in capsys.readouterr().err
    assert sorted(path.name for path in root.iterdir()) == ["data", "meta"]


def test_a_folder_that_cannot_be_made_ends_with_2(capsys):
    write()
    Path("taken").write_text("")
    assert ended("data", "show", "set", "--to", "taken") == 2
    assert "taken: cannot be created" in capsys.readouterr().err


# -- data fix


def spoil(root: Path) -> None:
    """A fault with a certain repair."""
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"total_frames": 1}))


@pytest.mark.slow
def test_a_repair_lists_the_change_and_ends_with_0(capsys):
    spoil(write())
    assert ended("data", "fix", "set", "--to", "new") == 0
    out = capsys.readouterr().out
    assert "total_frames 1." in out
    assert "1 change. The copy is new (v3.0, 5 episodes, 150 frames)." in out
    assert ended("data", "check", "new") == 0
    assert "totals" not in capsys.readouterr().out
    assert json.loads(Path("set/meta/info.json").read_text())["total_frames"] == 1


@pytest.mark.slow
def test_a_repair_that_needs_the_user_ends_with_1(capsys):
    write(bad=3)
    assert ended("data", "fix", "set", "--to", "new") == 1
    out = capsys.readouterr().out
    assert "✗ action  not_finite" in out
    assert "1 problem not repaired." in out
    assert Path("new/meta/info.json").is_file()


def test_a_dry_run_of_a_repair_writes_nothing(capsys):
    spoil(write())
    assert ended("data", "fix", "set", "--dry-run") == 0
    assert (
        "1 change would be made (v3.0, 5 episodes, 150 frames). Nothing was written."
        in capsys.readouterr().out
    )
    assert sorted(path.name for path in Path().iterdir()) == ["set"]


@pytest.mark.slow
def test_a_repair_as_json_is_one_document(capsys):
    spoil(write())
    assert ended("data", "fix", "set", "--to", "new", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document) == [
        "root", "to", "version", "fps", "episodes", "frames", "size_b", "changes", "remaining", "left_behind",
    ]  # fmt: skip
    assert document["to"] == "new"
    (change,) = document["changes"]
    assert change == {
        "check": "totals",
        "where": "meta/info.json",
        "problem": "total_frames 1.",
        "done": "Counted: total_frames 150.",
        "episodes": [],
    }


def test_a_set_that_cannot_be_repaired_ends_with_1_and_writes_nothing(capsys):
    write()
    Path("set/meta/info.json").write_text("")
    assert ended("data", "fix", "set", "--to", "new") == 1
    out = capsys.readouterr().out
    assert "is empty (0 bytes)" in out
    assert "Nothing was written." in out
    assert not Path("new").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["set"], "--to: name the folder of the copy, or use --dry-run"),
        (["set", "--to", "set/new"], "inside the dataset"),
        (["set", "--to", "full"], "exists and is not empty"),
        (["lerobot/pusht", "--to", "new"], "is not a folder. Download the dataset first"),
        (["full", "--to", "new"], "has no meta/info.json"),
        (["set", "--to", "new", "--trainable", "small_trainable:TRAINABLE"], "cannot repair datasets"),
    ],
)
def test_wrong_arguments_of_a_repair_end_with_2(capsys, words, said):
    write()
    Path("full").mkdir()
    Path("full/mine").write_text("kept")
    assert ended("data", "fix", *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert sorted(path.name for path in Path().iterdir()) == ["full", "set"]
