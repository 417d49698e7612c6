"""`sweeper serve` serves the policy that is meant until it is told to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import ended, plain_console, printed, run_in
from reaching_policies import write_checkpoint
from test_eval_command import trial  # noqa: F401 (a fixture)

from sweeper.errors import UserError
from sweeper.finalists.candidates import Candidate
from sweeper.finalists.serving import serve_policy
from sweeper.terminal.finalists.serving import print_serving, reachable
from trainables.deployment import RemotePolicy, RemotePolicyError
from trainables.interface import ServeOptions

OBSERVATION = {"observation.state": np.zeros(2), "observation.environment_state": np.zeros(16)}


def started(*arguments: str, in_background: bool = False) -> tuple[subprocess.Popen[str], dict[str, object]]:
    """Start the command in a process of its own; returns it with what it printed first.

    In the background it ignores SIGINT, as a shell starts a job with ``&`` from a script.
    """
    ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if in_background else []
    command = [sys.executable, "-m", "sweeper.cli", "serve", *arguments]
    process = subprocess.Popen(
        [*ignoring, *command, "--json", "--port", "0", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, err = process.communicate()
        pytest.fail(err)
    return process, json.loads(line)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_trial_is_served_until_a_signal(trial: Path, number: signal.Signals) -> None:  # noqa: F811
    setting = ("--setting", "policy.n_action_steps=3", "--batch", "16")
    process, described = started("small:0", *setting, in_background=number == signal.SIGTERM)
    try:
        assert described["name"] == "small:0"
        assert described["setting"]["policy.n_action_steps"] == 3
        assert described["token"] is None
        with RemotePolicy(str(described["url"]), timeout_s=200) as policy:
            assert policy.infer(OBSERVATION)["actions"].shape == (3, 2)
            with pytest.raises(RemotePolicyError, match="is missing"):
                policy.infer({})
            process.send_signal(number)
            _, err = process.communicate(timeout=400)
            with pytest.raises(RemotePolicyError, match="the server is ending"):
                policy.infer(OBSERVATION)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    lines = err.splitlines()
    assert lines[0] == "Opening small:0 …"
    assert any(line.startswith("session 1 from 127.0.0.1:") and line.endswith(" began") for line in lines)
    assert lines[-1] == "Ended. Sessions: 1, answers: 1, errors: 1."


@pytest.mark.slow
def test_a_checkpoint_is_served_without_its_simulator_to_other_machines(trial: Path, tmp_path: Path) -> None:  # noqa: F811
    config = trial / "checkpoints" / "000020" / "config.json"
    stored = json.loads(config.read_text())
    stored["config"]["rollout.env"] = "missing_simulator:Arm"
    config.write_text(json.dumps(stored))
    candidate = Candidate("here", "diffusion_policy", config.parent)
    with serve_policy(
        candidate, ServeOptions(host="0.0.0.0", port=0, batch=1), tmp_path, threads=1
    ) as server:
        console = plain_console(200)
        print_serving(console, "here", {}, server, show_token=True)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a background job of a script
        background = plain_console(200)
        print_serving(background, "here", {}, server, show_token=False)
        signal.signal(signal.SIGINT, before)
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        with RemotePolicy(url, server.token, timeout_s=200) as policy:
            assert policy.infer(OBSERVATION)["actions"].shape == (4, 2)
    out = printed(console)
    assert f"Serving here at {reachable(server.url)}" in out
    assert "Ctrl-C ends the server." in out
    assert f"`kill {os.getpid()}` ends the server." in printed(background)
    assert "0.0.0.0" not in out
    assert f"token     {server.token}" in out
    assert (
        "takes     observation.state [2], observation.environment_state [16]; the last 2 observations" in out
    )
    assert "gives     4 actions [2]" in out
    assert "one client at a time" in out
    assert "not encrypted" in out


@pytest.mark.slow
def test_a_port_in_use_ends_the_command(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert ended("serve", "small", "--port", str(port), "--batch", "1", "--threads", "1") == 2
    assert f"port {port}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_setting_that_is_not_one_ends_the_command(trial: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert ended("serve", "small", "--setting", "optimizer.lr=1") == 2
    assert "a trained policy cannot change it" in capsys.readouterr().err
    assert ended("serve", "small", "--setting", "policy.n_action_steps=99", "--port", "0") == 2
    assert "policy.n_action_steps" in capsys.readouterr().err


def test_a_missing_package_is_named(
    trial: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    assert ended("serve", "small", "--port", "0") == 2
    assert 'pip install "diffusion-policy-sweeper[serve]"' in " ".join(capsys.readouterr().err.split())


def test_policies_that_cannot_be_served_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, monkeypatch)
    candidate = Candidate("mine", "reaching_policies:TRAINABLE", write_checkpoint(tmp_path / "policy", 0.5))
    with pytest.raises(UserError, match=r"mine: the trainable .* cannot serve its policies"):
        serve_policy(candidate, ServeOptions(), tmp_path)
