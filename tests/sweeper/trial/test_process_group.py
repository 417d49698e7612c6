"""Workers find each other over the network that Ray uses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.slow


def test_the_interface_is_the_one_that_has_rays_address() -> None:
    # It imports Ray Train, which costs more than a second in every process that collects this file.
    from sweeper.trial.trainer import interface_of

    addresses = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.5", "fe80::1%eth0"], "docker0": ["172.17.0.1"]}
    interfaces = {
        name: [SimpleNamespace(address=address) for address in each] for name, each in addresses.items()
    }
    assert interface_of("10.0.0.5", interfaces) == "eth0"
    assert interface_of("fe80::1", interfaces) == "eth0"
    assert interface_of("127.0.0.1", interfaces) == "lo"
    assert interface_of("192.0.2.9", interfaces) is None
    assert interface_of("127.0.0.1") is not None
