"""From a configuration to its data, as a sweep and a trial do it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_sets import PICTURE, call_otherwise, states

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.frames import open_frames
from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows
from trainables.diffusion_policy.data import describe, image_sizes, load_dataset, preflight, source
from trainables.diffusion_policy.finetuning.resolve import resolve, resolve_faults

FRONT, WRIST = "observation.images.front", "observation.images.wrist"


def built(**fields):
    return resolve({f"dataset.{name}": value for name, value in fields.items()})


@pytest.mark.slow
def test_cameras_of_different_size_are_resized_to_one(make_dataset, tmp_path):
    cameras = {
        FRONT: DatasetFeature("video", (48, 64, 3), ["height", "width", "channels"]),
        WRIST: DatasetFeature("image", (20, 20, 3), ["height", "width", "channels"]),
    }
    root = str(make_dataset(cameras=cameras, lengths=(9, 12)))
    (fault,) = preflight(built(root=root), tmp_path)
    assert fault.where == "policy.resize_shape"
    assert "48×64" in fault.problem
    assert "20×20" in fault.problem

    config = resolve({"dataset.root": root, "policy.resize_shape": [24, 32]})
    assert preflight(config, tmp_path) == []
    dataset = load_dataset(config.dataset, tmp_path)
    frames = {
        name: open_frames(dataset, name, size, tmp_path)
        for name, size in image_sizes(config, dataset.policy_features).items()
    }
    windows = Windows(dataset, [0, 1], n_obs_steps=2, horizon=8, drop_n_last_frames=0, frames=frames)
    batch = windows.gather(np.array([0, 11]))
    for camera in (FRONT, WRIST):
        assert batch[camera].shape == (2, 2, 3, 24, 32)
        expected = dataset.pictures(camera, np.array([10, 11]), (24, 32))
        np.testing.assert_array_equal(batch[camera][1].numpy(), expected)


@pytest.mark.slow
def test_a_configuration_names_several_sets_ranges_and_renames(make_dataset, tmp_path):
    one = make_dataset("one", cameras={FRONT: PICTURE}, lengths=(9, 8, 7))
    two = call_otherwise(make_dataset("two", cameras={FRONT: PICTURE}, lengths=(6, 5)), {"action": "actions"})
    config = built(
        root=[str(one), str(two)],
        episodes=["0-1", "3:5"],
        exclude_episodes=4,
        features={"actions": "action"},
    )
    assert preflight(config, tmp_path) == []
    dataset = load_dataset(config.dataset, tmp_path)
    assert [episode.index for episode in dataset.episodes] == [0, 1, 3]
    np.testing.assert_array_equal(dataset.vector("action")[17:], 100 + states(0, 6))
    described = describe(config, tmp_path)
    assert described["dataset"] == [str(one), str(two)]
    assert described["revision"] == [None, None]
    assert (described["episodes"], described["frames"]) == (3, 23)
    json.dumps(described)

    # As a trial's config.json and a checkpoint keep it.
    assert resolve(json.loads(json.dumps(config.to_flat()))) == config


def test_one_set_is_described_as_ever(make_dataset, tmp_path):
    root = make_dataset()
    for named in (str(root), [str(root)]):
        described = describe(built(root=named), tmp_path)
        assert described["fingerprint"] == open_dataset(root).fingerprint
        assert described["revision"] is None
    assert describe(built(root=str(root)), tmp_path)["dataset"] == str(root)


def test_the_hub_the_built_in_set_and_folders_are_told_apart(tmp_path):
    assert source(built(repo_id="a/b").dataset, tmp_path) == "a/b"
    assert source(built(repo_id=["a/b", "c/d"]).dataset, tmp_path) == ["a/b", "c/d"]
    assert source(built(repo_id="a/b", root=["x", "y"]).dataset, tmp_path) == [
        Path("x"),
        Path("y"),
    ]


@pytest.mark.parametrize(
    ("fields", "where", "words"),
    [
        ({"root": []}, "dataset.root", "is an empty list"),
        ({"root": ["a", 3]}, "dataset.root", "3 is not a text"),
        ({"repo_id": ["a/b", "builtin/push"]}, "dataset.repo_id", "'builtin/push' is not a built-in dataset"),
        ({"root": "a", "episodes": "9-3"}, "dataset.episodes", "'9-3' ends before it begins"),
        ({"root": "a", "episodes": [1, -2]}, "dataset.episodes", "-2 is negative"),
        ({"root": "a", "episodes": []}, "dataset.episodes", "is empty"),
        ({"root": "a", "exclude_episodes": None}, "dataset.exclude_episodes", "is null"),
        (
            {"root": "a", "episodes": [1, 2, "5-9"], "exclude_episodes": [2, 6]},
            "dataset.exclude_episodes",
            "[2] are in dataset.episodes too",
        ),
        ({"root": "a", "features": ["action"]}, "dataset.features", "is not a dict"),
        ({"root": "a", "features": {"actions": 3}}, "dataset.features", "'actions' becomes 3"),
    ],
)
def test_what_no_dataset_could_satisfy_is_told_before_one_is_looked_for(fields, where, words):
    (fault,) = resolve_faults({f"dataset.{name}": value for name, value in fields.items()})
    assert fault.where == where
    assert words in fault.problem


DOCS = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()


@pytest.mark.slow
def test_the_example_of_the_page_runs(make_dataset, tmp_path, monkeypatch, capsys):
    make_dataset("data/pusht", cameras={FRONT: PICTURE}, lengths=(12, 20, 5))
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(
        r"```python\n(from trainables.dataset import open_dataset\n.*?)```", DOCS, re.DOTALL
    )
    exec(compile(example, "docs/datasets.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("32 frames in 2 episodes at 10.0 fps\n")
    assert "'action': (dtype('float32'), (16, 2))" in printed


def test_every_line_of_the_page_can_be_written_so():
    page = DOCS[DOCS.index("## Choosing and combining") : DOCS.index("### Memory and disk")]
    lines = [
        line.partition(" #")[0]
        for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
        for line in block.splitlines()
        if line.startswith("dataset.")  # without the space that searches a field
    ]
    assert len(lines) == 9
    for line in lines:
        config = {"dataset.root": "somewhere", **yaml.safe_load(line)}
        assert resolve_faults(config) == [], line


@pytest.mark.slow
def test_checking_and_describing_the_data_loads_no_torch(make_dataset, tmp_path):
    code = (
        "import sys; from pathlib import Path; from trainables import registry; "
        "trainable, cache = registry.load('diffusion_policy'), Path(sys.argv[2]); "
        "config = {'dataset.root': sys.argv[1]}; "
        "assert trainable.preflight(config, cache) == []; "
        "assert trainable.describe(config, cache)['holdout_episodes']; "
        "print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(make_dataset(cameras={FRONT: PICTURE})), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
