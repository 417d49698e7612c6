"""Workers of a trial find each other over the network that Ray uses.

Gloo, by which workers without GPUs train together, takes the address that the host's own name stands for. On
Debian and Ubuntu that is 127.0.1.1, which no other machine reaches. Ray knows the address by which the
machines of a cluster see each other: its interface is named to Gloo.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

__all__ = ["NetworkConfig", "interface_of"]

INTERFACE = "GLOO_SOCKET_IFNAME"


def interface_of(address: str, interfaces: Mapping[str, Any] | None = None) -> str | None:
    """Name the network interface that has an address; None where none has it.

    Args:
        address: An IP address of this machine.
        interfaces: What `psutil.net_if_addrs` gives.
    """
    interfaces = psutil.net_if_addrs() if interfaces is None else interfaces
    for name, entries in interfaces.items():
        # Addresses that hold for one link alone come with the link's name behind them.
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return name
    return None


def _name_interface() -> None:
    found = interface_of(ray.util.get_node_ip_address())
    if found is not None:
        os.environ.setdefault(INTERFACE, found)  # who has named one knows better


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_name_interface)
        super().on_start(worker_group, backend_config)


class NetworkConfig(TorchConfig):
    """As `TorchConfig`, and workers use the network interface that Ray uses."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What starts the process group."""
        return _Backend
