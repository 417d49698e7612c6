"""The server: what one client does concerns no other; limits; pages; an orderly end."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
import torch
from raw_connections import Raw, page
from small_policy import features, small_batch, small_policy
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from trainables.deployment.client import RemotePolicy, RemotePolicyError
from trainables.deployment.server.protocol import pack, unpack
from trainables.deployment.server.running import RunningServer, ServeError, is_local, start_server
from trainables.deployment.server.server import message_limit
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.interface import ConfigError, ServeOptions

Serve = Callable[..., RunningServer]
Connect = Callable[..., RemotePolicy]
STATE = {"observation.state": np.array([1.0, -2.0, 3.0], dtype=np.float32)}


def moved(step: int) -> dict[str, np.ndarray]:
    return {"observation.state": np.array([step, -step, 30.0], dtype=np.float32)}


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process or thread does."""
    deadline_s = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def sessions(server: RunningServer) -> int:
    return int(json.loads(page(server, "/metadata")[1])["sessions"])


# What a client gets


@pytest.mark.slow
def test_a_client_first_receives_what_the_policy_takes(served: Serve, connected: Connect) -> None:
    server = served(name="a")
    with connect(server.url) as raw:
        first = unpack(raw.recv())
    assert first["inputs"] == [{"name": "observation.state", "type": "STATE", "shape": [3]}]
    assert (first["name"], first["n_obs_steps"], first["n_action_steps"]) == ("a", 2, 4)
    assert first["action"]["shape"] == [2]
    assert first["session"]["number"] == 1
    client = connected(server)
    assert client.features.inputs[0].name == "observation.state"
    assert client.metadata["session"]["number"] == 2


@pytest.mark.slow
def test_the_server_keeps_the_history_of_a_session(served: Serve, connected: Connect) -> None:
    server = served()
    client, other = connected(server), connected(server)

    def stacked(first: int, second: int) -> np.ndarray:
        pair = np.stack([moved(first)["observation.state"], moved(second)["observation.state"]])
        return connected(server).predict_action({"observation.state": pair[None]}, generator=[9])[0]

    # At the start the first observation stands for those before it.
    assert np.array_equal(client.infer(moved(1), seed=9)["actions"], stacked(1, 1))
    other.infer(moved(50))
    assert np.array_equal(client.infer(moved(2), seed=9)["actions"], stacked(1, 2))
    client.observe(moved(3))
    assert np.array_equal(client.infer(moved(4), seed=9)["actions"], stacked(3, 4))
    client.reset()
    assert np.array_equal(client.infer(moved(5), seed=9)["actions"], stacked(5, 5))


@pytest.mark.slow
def test_stacked_observations_leave_the_history_alone(served: Serve, connected: Connect) -> None:
    client = connected(served())
    client.infer(moved(1))
    client.predict_action({"observation.state": np.full((1, 2, 3), 77.0)}, generator=[1])
    after = client.infer(moved(2), seed=9)["actions"]
    client.reset()
    client.observe(moved(1))
    assert np.array_equal(client.infer(moved(2), seed=9)["actions"], after)


@pytest.mark.slow
def test_a_message_with_a_fault_leaves_the_history_alone(served: Serve, connected: Connect) -> None:
    client = connected(served())
    client.infer(moved(1))
    for fault in ({"generator": [np.zeros(8, np.uint8)]}, {"seed": -1}, {"observation.state": np.zeros(5)}):
        with pytest.raises(RemotePolicyError):
            client._request({**moved(50), **fault})
    after = client.infer(moved(2), seed=9)["actions"]
    client.reset()
    client.observe(moved(1))
    assert np.array_equal(client.infer(moved(2), seed=9)["actions"], after)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_episode(served: Serve, connected: Connect) -> None:
    server = served()

    def episode(client: RemotePolicy, seed: int | None) -> list[np.ndarray]:
        client.reset(seed)
        return [client.infer(moved(step))["actions"] for step in range(3)]

    client = connected(server)
    first = episode(client, 5)
    assert not np.array_equal(first[0], episode(client, 6)[0])
    for one, again in zip(first, episode(connected(server), 5), strict=True):
        assert np.array_equal(one, again)
    seed = client.reset()
    assert seed != client.reset()
    assert not np.array_equal(episode(client, None)[0], episode(client, None)[0])


@pytest.mark.slow
def test_a_session_among_others_gets_what_it_gets_alone(served: Serve, connected: Connect) -> None:
    # A row waits for those of other clients: on a busy machine they may come late.
    server = served(batch_wait_ms=500.0)
    if not server.description["batch"]["alike"]:
        pytest.skip("on this machine the place in a batch decides the last digits")

    def episode(number: int) -> list[np.ndarray]:
        with RemotePolicy(server.url, timeout_s=200.0) as client:
            client.reset(number)
            return [client.infer(moved(number + step))["actions"] for step in range(6)]

    alone = {number: episode(number) for number in (0, 3, 11)}
    with ThreadPoolExecutor(12) as threads:
        together = dict(enumerate(threads.map(episode, range(12))))
    for number, actions in alone.items():
        assert all(map(np.array_equal, actions, together[number])), number
    page_text = page(server, "/metrics")[1]
    batches = float(re.search(r"batch_rows_count (\S+)", page_text)[1])
    assert batches < (3 + 12) * 6, "nothing was predicted together"


@pytest.mark.slow
def test_an_openpi_client_is_understood(served: Serve) -> None:
    # What openpi's client sends and expects, byte by byte, without our encoding.
    import msgpack

    with connect(served(token="secret").url, additional_headers={"Authorization": "Api-Key secret"}) as raw:
        msgpack.unpackb(raw.recv())
        array = {b"__ndarray__": True, b"data": struct.pack("<3f", 1, 2, 3), b"dtype": "<f4", b"shape": (3,)}
        raw.send(msgpack.packb({"observation.state": array}))
        answer = msgpack.unpackb(raw.recv())
    assert answer["actions"][b"shape"] == [4, 2]
    assert np.frombuffer(answer["actions"][b"data"], answer["actions"][b"dtype"]).size == 8
    assert answer["server_timing"]["infer_ms"] > 0


# Faults of one client


@pytest.mark.slow
def test_a_fault_is_answered_with_text_and_the_session_continues(served: Serve) -> None:
    server = served()
    with connect(server.url) as raw:
        raw.recv()
        for sent, problem in (
            (b"\xc1garbage", "not valid msgpack"),
            ("text", "send msgpack in a binary frame"),
            (pack([1]), "send a map"),
            (pack({"state": 1}), "observation.state: is missing"),
            (pack({**STATE, "generator": [np.zeros(3, dtype=np.uint8)]}), "not the state of a generator"),
            (pack({**STATE, "generator": [np.zeros(5056, dtype=np.uint8)]}), "not the state of a generator"),
        ):
            raw.send(sent)
            answer = raw.recv()
            assert isinstance(answer, str)
            assert problem in answer
        raw.send(pack(STATE))
        assert unpack(raw.recv())["actions"].shape == (4, 2)
    assert server.counts == {"sessions": 1, "answers": 1, "errors": 6}


@pytest.mark.slow
def test_every_damaged_message_is_answered_in_the_same_session(served: Serve) -> None:
    server = served()
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(1).get_state().numpy()
    whole = [
        pack({**STATE, "seed": 5, "n_action_steps": 3}),
        pack({"observation.state": np.ones((2, 2, 3)), "seed": [1, 2]}),
        pack({**STATE, "generator": [generator]}),
        pack({"command": "reset", "seed": 5}),
        pack({**STATE, "command": "observe"}),
    ]
    outcomes = {str: 0, bytes: 0}
    with connect(server.url) as raw:
        raw.recv()
        for number in range(300):
            message = bytearray(whole[number % len(whole)])
            for _ in range(rng.integers(1, 4)):
                message[rng.integers(min(len(message), 200))] = rng.integers(256)
            raw.send(bytes(message))
            answer = raw.recv(timeout=200)
            outcomes[type(answer)] += 1
        raw.send(pack(STATE))
        assert unpack(raw.recv())["actions"].shape == (4, 2)
    assert min(outcomes.values()) >= 10, outcomes
    assert server.counts["sessions"] == 1


@pytest.mark.slow
def test_a_message_that_is_too_large_ends_its_own_session_only(served: Serve, connected: Connect) -> None:
    server = served(max_message_b=10_000)
    good = connected(server)
    with connect(server.url) as raw:
        raw.recv()
        raw.send(bytes(10_001))
        with pytest.raises(ConnectionClosed) as closed:
            raw.recv()
    assert closed.value.rcvd.code == 1009
    assert good.infer(STATE)["actions"].shape == (4, 2)


@pytest.mark.parametrize(
    ("cameras", "image", "rows"),
    [(0, (4, 4), 64), (1, (96, 96), 64), (1, (480, 640), 9), (2, (1080, 1920), 4)],
)
def test_the_largest_message_has_room_for_rows(cameras: int, image: tuple[int, int], rows: int) -> None:
    class Shapes:
        n_obs_steps, n_action_steps, features = 2, 8, features(cameras=cameras, image=image)

    shapes = [(rows, 2, *feature.shape) for feature in Shapes.features.inputs]
    message = sum(int(np.prod(shape)) * (1 if len(shape) == 5 else 8) for shape in shapes)
    limit = message_limit(cast(Any, Shapes))
    assert message + 500_000 < limit < 2**20 + max(2**24, 4 * message)


@pytest.mark.slow
def test_an_absurd_length_in_a_frame_reserves_nothing(served: Serve, connected: Connect) -> None:
    server = served()
    good = connected(server)
    with Raw(server) as raw:
        raw.send_frame(b"x", claimed=2**62)
        assert struct.pack(">H", 1009) in raw.read_to_end()
    assert good.infer(STATE)["actions"].shape == (4, 2)


@pytest.mark.slow
def test_bytes_that_are_no_websocket_harm_no_other(served: Serve, connected: Connect) -> None:
    server = served()
    good = connected(server)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as stranger:
        stranger.sendall(b"\x16\x03\x01\x02\x00" + bytes(512) + b"\r\n")
        stranger.settimeout(200)
        assert b"101" not in stranger.recv(100)
    with Raw(server) as raw:
        raw.socket.sendall(b"\xff" * 64)  # reserved bits, an unknown opcode
        assert struct.pack(">H", 1002) in raw.read_to_end()
    assert good.infer(STATE)["actions"].shape == (4, 2)


@pytest.mark.slow
def test_a_stranger_that_says_nothing_is_let_go(served: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.deployment.server.server.OPEN_S", 1.0)
    server = served()
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as stranger:
        stranger.settimeout(200)
        assert stranger.recv(100) == b""


@pytest.mark.slow
def test_a_client_that_dies_in_the_middle_of_a_message_leaves_nothing(
    served: Serve, connected: Connect
) -> None:
    server = served()
    good = connected(server)
    for _ in range(3):
        with Raw(server) as raw:
            raw.send_frame(pack(STATE)[:20], claimed=500)
            raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset
    with Raw(server) as raw:
        raw.send_frame(pack(STATE))
    assert good.infer(STATE)["actions"].shape == (4, 2)
    until(lambda: sessions(server) == 1)


@pytest.mark.slow
def test_a_client_that_closes_only_its_half_is_let_go(served: Serve, connected: Connect) -> None:
    server = served()
    good = connected(server)
    with Raw(server) as raw:
        raw.socket.shutdown(socket.SHUT_WR)
        raw.read_to_end()
    assert good.infer(STATE)["actions"].shape == (4, 2)
    until(lambda: sessions(server) == 1)


@pytest.mark.slow
def test_a_client_that_never_reads_holds_up_no_other_and_is_cut_off(
    served: Serve, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.deployment.server.server.SEND_S", 1.0)
    said: list[str] = []
    server = served(report=said.append)
    good = connected(server)
    # The answers contain the generators: 320 kB each, which soon fill what the kernel keeps for the client.
    states = [torch.Generator().manual_seed(row).get_state().numpy() for row in range(64)]
    rows = pack({"observation.state": np.zeros((64, 2, 3), dtype=np.float32), "generator": states})
    with Raw(server, receive_buffer=1024) as raw, ThreadPoolExecutor(1) as thread:
        sending = thread.submit(_send_until_cut_off, raw, rows)
        while not sending.done():
            assert good.infer(STATE)["actions"].shape == (4, 2)
        sending.result()
    until(lambda: sessions(server) == 1)
    assert any("does not read" in sentence for sentence in said)


def _send_until_cut_off(raw: Raw, data: bytes) -> None:
    frame = bytes([0x82, 0x80 | 127]) + struct.pack(">Q", len(data)) + bytes(4) + data
    raw.socket.settimeout(400)
    with contextlib.suppress(ConnectionError):
        for _ in range(10_000):
            raw.socket.sendall(frame)


class Slow:
    """The policy, which waits for leave when an observation begins with 111."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.features, self.n_obs_steps = policy.features, policy.n_obs_steps
        self.n_action_steps, self._policy = policy.n_action_steps, policy
        self.begun, self.leave = threading.Event(), threading.Event()

    def predict_action(self, observation: Any, *, generator: Any) -> torch.Tensor:
        first = observation["observation.state"][:, 0, 0]
        if (first == 111).any():
            self.begun.set()
            assert self.leave.wait(400)
        if (first == 222).any():
            return torch.full((len(first), 4, 2), torch.nan)
        if (first == 333).any():
            raise RuntimeError("the device is lost")
        return self._policy.predict_action(observation, generator=generator)


@pytest.mark.slow
def test_pages_and_handshakes_are_answered_while_the_policy_computes(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    slow = Slow(policy)
    server = served(slow)
    client = connected(server)
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.infer, moved(111))
        assert slow.begun.wait(200)
        assert page(server, "/healthz") == (200, "OK\n")
        assert connected(server).reset(3) == 3
        assert not answer.done()
        slow.leave.set()
        assert answer.result()["actions"].shape == (4, 2)


@pytest.mark.slow
def test_a_failure_of_the_policy_is_told_to_its_client(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    said: list[str] = []
    client = connected(served(Slow(policy), report=said.append))
    with pytest.raises(RemotePolicyError, match="its actions are not finite"):
        client.infer(moved(222))
    client.reset()
    with pytest.raises(RemotePolicyError, match="the policy failed: RuntimeError: the device is lost"):
        client.infer(moved(333))
    client.reset()
    assert client.infer(STATE)["actions"].shape == (4, 2)
    assert any("the device is lost" in sentence for sentence in said)


# Limits


@pytest.mark.slow
def test_a_session_more_than_allowed_is_refused_and_room_is_made_again(
    served: Serve, connected: Connect
) -> None:
    server = served(max_sessions=2)
    first, _ = connected(server), connected(server)
    with pytest.raises(RemotePolicyError, match="503 All 2 sessions are in use"):
        RemotePolicy(server.url)
    assert 'refused_total{reason="sessions"} 1.0' in page(server, "/metrics")[1]
    first.close()
    until(lambda: sessions(server) == 1)
    assert connected(server).infer(STATE)["actions"].shape == (4, 2)


@pytest.mark.slow
def test_a_session_without_messages_ends(served: Serve) -> None:
    said: list[str] = []
    server = served(idle_s=1.0, report=said.append)
    with connect(server.url) as raw:
        raw.recv()
        with pytest.raises(ConnectionClosed) as closed:
            raw.recv(timeout=200)
    assert closed.value.rcvd.reason == "idle for 1 s"
    until(lambda: sessions(server) == 0)
    assert any(sentence.endswith("0 answers and 0 errors: idle for 1 s") for sentence in said)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [None, "Bearer wrong", "Bearer ", "secret", "Basic secret", "Bearer secret x"]
)
def test_without_the_token_there_is_nothing_but_health(served: Serve, sent: str | None) -> None:
    server = served(token="secret")
    headers = {} if sent is None else {"Authorization": sent}
    for path in ("/metadata", "/metrics", "/"):
        status, text = page(server, path, **headers)
        assert status == 401
        assert "Authorization: Bearer TOKEN" in text
    assert page(server, "/healthz")[0] == 200
    with Raw(server, **headers) as raw:
        assert b" 401 " in raw.head.splitlines()[0]


@pytest.mark.slow
def test_with_the_token_everything_is_there(served: Serve, connected: Connect) -> None:
    server = served(token="secret")
    assert page(server, "/metadata", Authorization="Bearer secret")[0] == 200
    assert connected(server, token="secret").infer(STATE)["actions"].shape == (4, 2)
    with pytest.raises(RemotePolicyError, match="401 This server needs its token"):
        RemotePolicy(server.url, token="other")
    assert "secret" not in page(server, "/metadata", Authorization="Bearer secret")[1]


@pytest.mark.slow
def test_beyond_this_machine_a_token_is_made(served: Serve) -> None:
    assert served().token is None
    server = served(host="0.0.0.0")
    assert server.token is not None
    assert len(server.token) >= 32
    assert server.token != served(host="0.0.0.0").token
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [True] * 4
    assert [is_local(host) for host in ("0.0.0.0", "::", "192.168.1.2", "robot")] == [False] * 4


def test_a_web_page_cannot_open_a_session(served: Serve) -> None:
    with Raw(served(), Origin="http://evil.example") as raw:
        assert b" 403 " in raw.head.splitlines()[0]


# Pages


@pytest.mark.slow
def test_pages(served: Serve, connected: Connect) -> None:
    server = served()
    client = connected(server)
    client.infer(STATE)
    described = json.loads(page(server, "/metadata")[1])
    assert described["sessions"] == 1
    assert described["batch"]["rows"] == 16
    metrics = page(server, "/metrics")[1]
    for line in (
        'sweeper_serve_requests_total{outcome="actions"} 1.0',
        "sweeper_serve_sessions 1.0",
        "sweeper_serve_answer_seconds_count 1.0",
        "sweeper_serve_batch_rows_sum 1.0",
    ):
        assert line in metrics
    assert page(server, "/other") == (
        404,
        "Pages are /healthz, /metadata, /metrics; everything else is a WebSocket.\n",
    )


# The end


@pytest.mark.slow
def test_what_is_being_answered_is_answered_when_the_server_ends(
    served: Serve, connected: Connect, policy: DiffusionPolicy
) -> None:
    slow = Slow(policy)
    server = served(slow)
    busy, idle = connected(server), connected(server)
    with ThreadPoolExecutor(2) as threads:
        answer = threads.submit(busy.infer, moved(111))
        assert slow.begun.wait(200)
        closing = threads.submit(server.close)
        until(lambda: page(server, "/healthz") == (503, "ending\n"))
        with pytest.raises(RemotePolicyError, match="the server is ending") as closed:
            idle.infer(STATE)
        assert closed.value.lost
        assert not closing.done()
        slow.leave.set()
        assert answer.result()["actions"].shape == (4, 2)
        closing.result()
    with pytest.raises(RemotePolicyError, match="there is no policy server"):
        RemotePolicy(server.url)
    server.wait()  # it has ended, and it did not fail
    assert not [thread for thread in threading.enumerate() if thread.name in ("policy-server",)]


@pytest.mark.slow
def test_a_server_that_cannot_predict_any_more_ends(
    served: Serve, connected: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a counter is broken")

    monkeypatch.setattr("trainables.deployment.server.metrics.Metrics.batch", broken)
    server = served()
    client = connected(server)
    with pytest.raises(RemotePolicyError, match="the server is ending"):
        client.infer(STATE)
    with pytest.raises(ServeError, match="the server failed: a counter is broken"):
        server.wait()


@pytest.mark.slow
def test_a_port_in_use_is_reported(served: Serve, policy: DiffusionPolicy) -> None:
    port = int(served().url.rpartition(":")[2])
    with pytest.raises(ServeError, match=f"port {port}: .*in use.*Choose another --port"):
        served(port=port)


def test_options_that_are_not_possible_are_refused_together(policy: DiffusionPolicy) -> None:
    with pytest.raises(ConfigError) as caught:
        start_server(policy, ServeOptions(max_sessions=0, batch=0, token="two words"))
    assert [fault.where for fault in caught.value.faults] == ["max_sessions", "batch", "token"]


@pytest.mark.slow
def test_a_camera_policy_is_served(served: Serve, connected: Connect) -> None:
    camera = small_policy(cameras=2, noise_scheduler_type="DDIM", num_inference_steps=1).eval()
    client = connected(served(camera, batch=1))
    batch = small_batch(camera, 3)
    seen = {feature.name: batch[feature.name] for feature in camera.features.inputs}
    actions = client.predict_action(seen, generator=[1, 2, 3])
    expected = [
        camera.predict_action(
            {name: value[row : row + 1] for name, value in seen.items()},
            generator=[torch.Generator().manual_seed(row + 1)],
        )
        for row in range(3)
    ]
    assert torch.equal(actions, torch.cat(expected))
