"""A policy on a server, used like one on this machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import SMALL, small_policy, statistics

import trainables.deployment
from trainables.deployment import Controller, ControlSettings, RemotePolicy, RemotePolicyError
from trainables.deployment.server.running import RunningServer
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.evaluation.rollout import rollout
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures

ROOT = Path(__file__).parents[4]
Serve = Callable[..., RunningServer]
Connect = Callable[..., RemotePolicy]
ROWS = 16


def batch_of(policy: DiffusionPolicy, rows: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        feature.name: torch.randn((rows, policy.n_obs_steps, *feature.shape), generator=generator)
        for feature in policy.features.inputs
    }


def generators(first: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + row) for row in range(ROWS)]


@pytest.mark.slow
def test_it_predicts_what_the_policy_predicts_and_advances_the_same_generators(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    client = connected(served())
    observation = batch_of(policy, ROWS)
    here, there = generators(3), generators(3)
    for _ in range(2):
        expected = policy.predict_action(observation, generator=here)
        found = client.predict_action(observation, generator=there)
        assert isinstance(found, torch.Tensor)
        assert torch.equal(found, expected)
    assert all(
        torch.equal(one.get_state(), other.get_state()) for one, other in zip(here, there, strict=True)
    )


@pytest.mark.slow
def test_arrays_are_answered_with_an_array_that_can_be_changed(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    client = connected(served())
    tensors = batch_of(policy, 2)
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    found = client.predict_action(arrays, generator=[4, np.int64(5)])
    assert isinstance(found, np.ndarray)
    seeded = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    assert np.array_equal(found, client.predict_action(tensors, generator=seeded).numpy())
    found += 1.0


@pytest.mark.slow
def test_without_a_generator_the_noise_is_the_sessions(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    client = connected(served())
    observation = batch_of(policy, 1)
    client.reset(8)
    first, second = (client.predict_action(observation) for _ in range(2))
    assert not torch.equal(first, second)
    client.reset(8)
    assert torch.equal(client.predict_action(observation), first)


class Continuing:
    """Answers with what it continues, times its weight, and counts on from there."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.features, self.n_obs_steps, self.n_action_steps = policy.features, policy.n_obs_steps, 4
        self.available_actions = 7

    def predict_action(
        self,
        observation: Any,
        *,
        generator: Any,
        n_action_steps: int = 4,
        known: Any = None,
        kept: Any = None,
    ) -> torch.Tensor:
        free = torch.arange(float(n_action_steps))[None, :, None].expand(len(generator), -1, 2)
        return free if known is None else free + known * kept[:, None]


def test_a_controller_may_ask_for_all_actions_and_for_a_continuation(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    client = connected(served(Continuing(policy)))
    assert (client.n_action_steps, client.available_actions) == (4, 7)
    observation = batch_of(policy, 3)
    assert client.predict_action(observation, generator=[1, 2, 3]).shape == (3, 4, 2)
    found = client.predict_action(
        observation,
        generator=[1, 2, 3],
        n_action_steps=7,
        known=torch.full((1, 7, 2), 10.0).expand(3, -1, -1),
        kept=torch.linspace(1, 0, 7),
    )
    expected = torch.arange(7.0) + 10 * torch.linspace(1, 0, 7)
    assert torch.equal(found, expected[None, :, None].expand(3, -1, 2))
    with pytest.raises(RemotePolicyError, match="n_action_steps: 8 is not a whole number from 1 to 7"):
        client.predict_action(observation, n_action_steps=8)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_a_controller_acts_with_it_as_with_the_policy(
    served: Serve, connected: Connect, policy: DiffusionPolicy, mode: Any
) -> None:
    settings = ControlSettings(mode=mode)
    client = connected(served(policy, batch=1))

    def acted(with_policy: Any) -> np.ndarray:
        with Controller(with_policy, settings, rate_hz=1000, seed=3) as controller:
            actions = []
            for tick in range(12):
                actions.append(controller.step({STATE: np.full(3, tick, np.float32)}))
                if (
                    controller._future is not None
                ):  # a fast robot would be late, by a number of ticks that differs
                    controller._future.result()
            return np.stack(actions)

    assert np.array_equal(acted(policy), acted(client))


@pytest.mark.slow
def test_a_rollout_with_it_is_the_rollout_of_the_policy(
    served: Serve, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "evaluation")
    features = PolicyFeatures(
        (Feature(STATE, FeatureType.STATE, (2,)),), Feature(ACTION, FeatureType.ACTION, (2,))
    )
    config = PolicyConfig(**{**SMALL, "noise_scheduler_type": "DDIM", "num_inference_steps": 2})
    torch.manual_seed(0)
    policy = build_policy(config, features, statistics(features)).eval()
    client = connected(served(policy, batch=32))
    arguments: dict[str, Any] = {"episode_indices": range(5), "seed": 3, "parallel": 2, "max_steps": 12}
    here = rollout(policy, "reach_simulator:Reach", **arguments)
    there = rollout(client, "reach_simulator:Reach", **arguments)
    for one, other in zip(here, there, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert one.record.max_reward == other.record.max_reward


@pytest.mark.slow
def test_the_client_needs_no_torch(served: Serve) -> None:
    server = served()
    program = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(_ABSENT)!r}:
            raise ImportError(f"{{name}} is not installed")

sys.meta_path.insert(0, Absent())
import numpy as np
from trainables.deployment import RemotePolicy

with RemotePolicy({server.url!r}, timeout_s=200.0) as policy:
    policy.reset(seed=1)
    print(policy.infer({{"observation.state": np.zeros(3)}})["actions"].shape)
    print(policy.predict_action({{"observation.state": np.zeros((3, 2, 3))}}, generator=[1, 2, 3]).shape)
print(sorted({{name.partition(".")[0] for name in sys.modules}} & set({sorted(_ABSENT)!r})))
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["(4, 2)", "(3, 4, 2)", "[]"]


_ABSENT = {
    "torch", "torchvision", "scipy", "pandas", "pyarrow", "diffusers", "safetensors", "ray", "optuna",
    "mlflow", "sweeper", "prometheus_client", "gymnasium", "matplotlib", "psutil", "yaml", "rich", "filelock",
}  # fmt: skip


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets.sync.client", None)
    with pytest.raises(ImportError, match=r'pip install "diffusion-policy-sweeper\[serve\]"'):
        RemotePolicy("ws://127.0.0.1:1")


def test_the_room_has_the_names_that_are_documented() -> None:
    assert trainables.deployment.RemotePolicy is RemotePolicy
    with pytest.raises(AttributeError, match="no attribute 'Remote'"):
        trainables.deployment.Remote  # noqa: B018


@pytest.mark.slow
def test_a_lost_connection_is_reported_and_made_again(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    first = served()
    client = connected(first)
    client.infer({STATE: np.zeros(3)})
    first.close()
    for _ in range(2):  # the session is closed, then there is no server
        with pytest.raises(RemotePolicyError) as caught:
            client.infer({STATE: np.zeros(3)})
        assert caught.value.lost
    served(port=int(first.url.rpartition(":")[2]))
    assert client.infer({STATE: np.zeros(3)})["actions"].shape == (4, 2)
    assert client.metadata["session"]["number"] == 1


@pytest.mark.slow
def test_another_policy_at_the_same_address_is_refused(served: Serve, connected: Connect) -> None:
    first = served()
    client = connected(first)
    first.close()
    other = small_policy(environment=4, noise_scheduler_type="DDIM", num_inference_steps=1).eval()
    served(other, port=int(first.url.rpartition(":")[2]))
    with pytest.raises(RemotePolicyError, match="closed the session"):
        client.infer({STATE: np.zeros(3)})
    with pytest.raises(RemotePolicyError, match="another policy is served there now"):
        client.infer({STATE: np.zeros(3)})


class Late:
    """The policy, which answers only when it may."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.features, self.n_obs_steps = policy.features, policy.n_obs_steps
        self.n_action_steps, self._policy = policy.n_action_steps, policy
        self.leave = threading.Event()

    def predict_action(self, observation: Any, *, generator: Any) -> torch.Tensor:
        if (observation[STATE][:, 0, 0] == 111).any():
            assert self.leave.wait(400)
        return self._policy.predict_action(observation, generator=generator)


@pytest.mark.slow
def test_a_late_answer_is_not_taken_for_the_next_one(
    served: Serve, connected: Connect, policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Late(policy)
    client = connected(served(late))
    # Patient until here: a handshake may take a busy machine longer than that, too.
    with monkeypatch.context() as impatient:
        impatient.setattr(client, "_timeout_s", 0.5)
        with pytest.raises(RemotePolicyError, match=r"no answer in 0\.5 s") as caught:
            client.infer({STATE: np.full(3, 111.0)})
    assert caught.value.lost
    late.leave.set()
    slower = connected(served(policy))
    client.reset(4)
    slower.reset(4)
    assert np.array_equal(
        client.infer({STATE: np.ones(3)})["actions"], slower.infer({STATE: np.ones(3)})["actions"]
    )


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1", "127.0.0.1:1", "ws://127.0.0.1:99999", "http://127.0.0.1"]
)
def test_an_address_without_a_server_is_reported(url: str) -> None:
    with pytest.raises(RemotePolicyError, match="there is no policy server"):
        RemotePolicy(url, timeout_s=200)


def test_what_cannot_be_sent_is_reported_and_the_session_continues(served: Serve, connected: Connect) -> None:
    client = connected(served())
    with pytest.raises(RemotePolicyError, match="an array of object cannot be sent"):
        client.infer({STATE: np.array([None])})
    assert client.infer({STATE: np.zeros(3)})["actions"].shape == (4, 2)


def test_another_server_is_not_taken_for_a_policy_server(tmp_path: Path) -> None:
    from websockets.sync.server import serve

    def talk(connection: Any) -> None:
        connection.send("hello")

    with serve(talk, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        try:
            with pytest.raises(RemotePolicyError, match="does not speak this client's protocol"):
                RemotePolicy(f"ws://127.0.0.1:{port}")
        finally:
            server.shutdown()
            thread.join()
