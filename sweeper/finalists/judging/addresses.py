"""Addresses at which a server listens."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from sweeper.errors import UserError

__all__ = ["Address", "address_of"]

EVERYWHERE = ("0.0.0.0", "::")
"""What stands for all addresses of a machine."""


@dataclass(frozen=True)
class Address:
    """Where a server listens.

    Attributes:
        host: Name or number of the network interface.
        port: Port; 0 for any that is free.
    """

    host: str
    port: int

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def reachable(self) -> str:
        """The host in a link that others open: instead of all addresses of this machine the one they use."""
        host = _own_address() if self.host in EVERYWHERE else self.host
        return f"[{host}]" if ":" in host else host


def address_of(text: str, option: str) -> Address:
    """Read ``HOST:PORT``.

    Args:
        text: What the user typed.
        option: The option, for the message.

    Raises:
        UserError: If it is not an address.
    """
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise UserError(
            f"{option} {text}: expected HOST:PORT, e.g. 127.0.0.1:8080 for this machine alone, or "
            "0.0.0.0:8080 for all of its networks."
        )
    return Address(host, int(port))


def _own_address() -> str:
    """The address by which other machines most probably reach this one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()
