"""Clients that do not follow the protocol."""

from __future__ import annotations

import base64
import os
import socket
import struct
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from trainables.deployment.server.running import RunningServer

__all__ = ["Raw", "page"]


def page(server: RunningServer, path: str, **headers: str) -> tuple[int, str]:
    """The status and the text of a page of a server."""
    url = server.url.replace("ws://", "http://") + path
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=200) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


class Raw:
    """A socket on which bytes are sent as they are, after the handshake of a WebSocket."""

    def __init__(self, server: RunningServer, *, receive_buffer: int | None = None, **headers: str) -> None:
        address = urlsplit(server.url)
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(200)
        self.socket.connect((address.hostname, address.port))
        lines = [
            "GET / HTTP/1.1",
            f"Host: {address.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += self.socket.recv(1)

    def send_frame(self, data: bytes, *, opcode: int = 2, claimed: int | None = None) -> None:
        """Send one masked frame, which may claim to be longer than it is."""
        mask = os.urandom(4)
        size = len(data) if claimed is None else claimed
        head = bytes([0x80 | opcode, 0x80 | 127]) + struct.pack(">Q", size) + mask
        self.socket.sendall(head + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data)))

    def read_to_end(self) -> bytes:
        """What the server sends until it closes the connection."""
        received = b""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                return received
            if not data:
                return received
            received += data

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: Any) -> None:
        self.socket.close()
