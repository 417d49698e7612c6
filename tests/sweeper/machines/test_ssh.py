"""Commands for a cluster: which head is meant, what is sent there, and what a job takes along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import yaml
from command_line import ended

from sweeper.cli import main
from sweeper.commands.on_cluster import split_cluster
from sweeper.errors import SpecError, UserError
from sweeper.machines import identity
from sweeper.machines.identity import identify
from sweeper.machines.jobs import JobPackage, package_space
from sweeper.machines.ssh import ClusterHead, find_cluster_head

LAB = {
    "cluster_name": "lab",
    "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": []},
    "auth": {"ssh_user": "robot", "ssh_private_key": "~/.ssh/key"},
}


def written(tmp_path: Path, **changes: object) -> Path:
    file = tmp_path / "lab.yaml"
    file.write_text(yaml.safe_dump(LAB | changes))
    return file


def test_the_head_of_a_lab_is_found_in_its_file(tmp_path: Path) -> None:
    head = find_cluster_head(written(tmp_path))
    assert (head.user, head.host) == ("robot", "10.0.0.1")
    assert head.key == str(Path.home() / ".ssh" / "key")
    assert head.container is None
    docker = {"image": "rayproject/ray:2.60.0", "container_name": "sweeper"}
    assert find_cluster_head(written(tmp_path, docker=docker)).container == "sweeper"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("a: [", "is not valid YAML"),
        ("[]", "has no provider.type"),
        ("provider: {type: local}\nauth: {}", "has no auth.ssh_user"),
        ("provider: {type: local}\nauth: {ssh_user: x}", "provider.head_ip is missing"),
        ("provider: {type: local, head_ip: x}\nauth: {ssh_user: x}\ndocker: 3", "docker is not a mapping"),
        ("x: " + "y" * 2**20, "larger than"),
    ],
)
def test_a_file_that_is_no_cluster_file_is_said_in_words(
    tmp_path: Path, text: str | None, words: str
) -> None:
    file = tmp_path / "lab.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=words):
        find_cluster_head(file)


def test_what_runs_on_the_head_reaches_it_word_for_word(tmp_path: Path) -> None:
    (tmp_path / ".sweeper").mkdir()
    (tmp_path / ".sweeper" / "environment.sh").write_text("export GREETING='hello there'\n")
    head = ClusterHead(Path("lab.yaml"), "10.0.0.1", "robot")
    command = head._remote("""printf '%s|' "$GREETING" 'a b' '$HOME' "it's" """)
    # What SSH does at the other end: it hands the text to the login shell.
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert done.stdout == "hello there|a b|$HOME|it's|"
    (tmp_path / ".sweeper" / "environment.sh").unlink()
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "setup_node.sh did not run here" in done.stderr


def program(folder: Path, name: str, script: str) -> None:
    """A program on the PATH of a test."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        (["eval", "sweeps/small:3", "--episodes", "2"], "small-3-eval"),
        (["eval", "small", "--to", "here"], "here"),
        (["export", "small", "--to=there"], "there"),
    ],
)
def test_a_folder_that_a_command_fills_on_the_head_is_copied_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], made: str
) -> None:
    here, programs, home = tmp_path / "here", tmp_path / "programs", tmp_path / "home"
    for folder in (here, home / ".sweeper", home / "tmp"):
        folder.mkdir(parents=True)
    (home / ".sweeper" / "environment.sh").write_text(f"export TMPDIR={home}/tmp\n")
    program(programs, "ssh", 'for last; do :; done; exec sh -c "$last"')
    program(programs, "sweeper", 'for to; do :; done; mkdir "$to"; echo "$@" > "$to/arguments"')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.chdir(here)
    everything = [*arguments, "--cluster", str(written(tmp_path))]
    assert ended(*everything) == 0
    assert [path.name for path in here.iterdir()] == [made]
    sent = (here / made / "arguments").read_text().split()
    assert sent[:2] == arguments[:2]
    assert sent[-2] == "--to"
    assert list((home / "tmp").iterdir()) == [], "nothing stays on the head"
    assert ended(*everything) == 2, "a folder that exists is not changed"


def test_a_cluster_may_be_named_before_and_behind_a_command() -> None:
    for arguments in (
        ["--cluster", "lab.yaml", "results", "x", "--json"],
        ["results", "x", "--cluster", "lab.yaml", "--json"],
        ["results", "--cluster=lab.yaml", "x", "--json"],
    ):
        assert split_cluster(arguments) == (Path("lab.yaml"), ["results", "x", "--json"])
    assert split_cluster(["results", "x"]) == (None, ["results", "x"])
    assert split_cluster(["results", "--", "--cluster"]) == (None, ["results", "--", "--cluster"])
    # These two read it themselves.
    assert split_cluster(["doctor", "--cluster", "lab.yaml"])[0] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["results", "x", "--cluster"], "the cluster file is missing"),
        (["results", "x", "--cluster", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["check", "x", "--cluster", "lab.yaml"], "leave --cluster out"),
        (["lunch", "--cluster", "lab.yaml"], "'lunch' is not a command"),
        (["status", "--address", "a:1", "--cluster", "lab.yaml"], "Use one of them"),
        (["results", "--topp", "--cluster", "lab.yaml"], "No such option"),
    ],
)
def test_a_command_that_cannot_run_on_a_cluster_is_refused_here(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_job_takes_the_space_and_the_changes_along() -> None:
    parcel = package_space("pusht_quick", ["budget.trials=3"], "mine", "/mnt/sweeps")
    assert parcel.sweep == "mine"
    assert parcel.arguments == (
        *("launch", "space.yaml", "budget.trials=3", "name=mine"),
        *("--sweeps", "/mnt/sweeps"),
    )
    assert "policy.horizon" in parcel.files["space.yaml"]
    assert parcel.modules == ()


def test_a_space_without_a_name_keeps_the_name_of_its_file(tmp_path: Path) -> None:
    space = tmp_path / "nameless.yaml"
    space.write_text(
        "trainable: small_trainable:TRAINABLE\n"
        "parameters: {optimizer.lr: {min: 0.1, max: 0.5}}\n"
        "metric: {name: train/loss, goal: minimize}\n"
        "budget: {trials: 2}\n"
    )
    parcel = package_space(str(space), [], None)
    assert parcel.sweep == "nameless"
    assert parcel.files["space.yaml"].startswith("name: nameless\n")
    # The trainable is the user's own: its module goes along.
    assert [path.name for path in parcel.modules] == ["small_trainable.py"]


def test_a_space_with_faults_is_not_sent(tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        package_space("pusht_quick", ["budget.trials=none"], None)


@pytest.mark.slow
def test_the_digest_tells_two_versions_of_the_code_apart(tmp_path: Path) -> None:
    root = Path(identity.__file__).parents[identity.__name__.count(".")]
    for package in ("sweeper", "trainables"):
        copytree(root / package, tmp_path / package, ignore=ignore_patterns("__pycache__"))

    def digest() -> str:
        command = [sys.executable, "-m", identity.__name__]
        answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        return str(json.loads(answer.stdout)["code"])

    copied = digest()
    assert copied == identify().code
    assert len(copied) == 12
    with (tmp_path / "trainables" / "registry.py").open("a") as file:
        file.write("# another version\n")
    assert digest() != copied


def test_a_parcel_may_have_no_modules() -> None:
    assert JobPackage("x", (), {}).modules == ()
