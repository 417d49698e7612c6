"""The head of a cluster that `ray up` made: commands that run there, and its ports here, over SSH.

A cluster file contains the account, and the address of a lab's head; for that of a cloud, Ray asks the
provider. Nothing but SSH is needed: no port of the cluster is open, and dashboard and MLflow listen on its
127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.errors import SweeperError, UserError
from sweeper.text import last_line

__all__ = ["ENVIRONMENT", "ClusterHead", "find_cluster_head", "unused_port"]

ENVIRONMENT = "~/.sweeper/environment.sh"
"""What set-up writes on every node (scripts/setup_node.sh)."""
LARGEST_BYTES = 1024 * 1024
CONNECT_TIMEOUT_S = 15
TUNNEL_TIMEOUT_S = 30.0
SSH_FAILED = 255
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ClusterHead:
    """How the head of a cluster is reached.

    Attributes:
        file: The cluster file.
        host: Name or address of the head.
        user: Who logs in.
        key: File of the private key; None for what SSH uses by itself.
        proxy: SSH's ProxyCommand, or None.
        container: Name of the container in which the cluster runs there; None if it runs on the machine.
    """

    file: Path
    host: str
    user: str
    key: str | None = None
    proxy: str | None = None
    container: str | None = None

    def run(self, arguments: Sequence[str]) -> int:
        """Run ``sweeper`` with these arguments on the head, on this terminal; its exit code.

        Raises:
            SweeperError: If the head cannot be reached.
        """
        tty = sys.stdin.isatty() and sys.stdout.isatty()
        command = self._remote(f"exec sweeper {shlex.join(arguments)}", tty=tty)
        code = subprocess.run([*self._ssh(batch=not tty), *(["-t"] if tty else []), self._target(), command])
        if code.returncode == SSH_FAILED:
            raise self._unreachable()
        return code.returncode

    def ask(self, script: str) -> str:
        """Run a shell script on the head, in the environment of its node; what it prints.

        Raises:
            SweeperError: If the head cannot be reached, or the script fails.
        """
        done = subprocess.run(
            [*self._ssh(), self._target(), self._remote(script)],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode == SSH_FAILED:
            raise self._unreachable(done.stderr)
        if done.returncode:
            raise SweeperError(f"{self.host}: {last_line(done.stderr) or 'a command on the head failed'}")
        return done.stdout

    def fetch(self, source: str, target: Path) -> None:
        """Copy a folder of the head, as its node sees it, to a new folder here.

        Raises:
            SweeperError: If it cannot be copied.
        """
        target.mkdir(parents=True)
        pack = self._remote(f"tar -C {shlex.quote(source)} -cf - .")
        sender = subprocess.Popen(
            [*self._ssh(), self._target(), pack], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        with sender:
            unpacked = subprocess.run(
                ["tar", "-C", str(target), "--no-same-owner", "-xf", "-"], stdin=sender.stdout, check=False
            )
        if sender.returncode or unpacked.returncode:
            raise SweeperError(f"{self.host}: {source} could not be copied to {target}.")

    @contextlib.contextmanager
    def tunnel(self, port: int, wanted: int = 0) -> Iterator[int]:
        """Lead a port of this machine to one that listens on the head's 127.0.0.1, while the context lasts.

        Args:
            port: The port there.
            wanted: The port here; 0 for any that is free.

        Yields:
            The port here.

        Raises:
            SweeperError: If there is no way to the head.
        """
        local = wanted or unused_port()
        process = subprocess.Popen(
            [*self._ssh(), "-N", "-L", f"{LOOPBACK}:{local}:{LOOPBACK}:{port}", self._target()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the command, which then ends the tunnel.
            start_new_session=True,
        )
        try:
            self._wait_for(process, local)
            yield local
        finally:
            process.terminate()
            process.communicate()

    def _wait_for(self, process: subprocess.Popen[str], port: int) -> None:
        until = time.monotonic() + TUNNEL_TIMEOUT_S
        while time.monotonic() < until:
            if process.poll() is not None:
                raise self._unreachable(process.communicate()[1])
            with contextlib.suppress(OSError):
                socket.create_connection((LOOPBACK, port), timeout=1).close()
                return
            time.sleep(0.1)
        raise self._unreachable()

    def _ssh(self, *, batch: bool = True) -> list[str]:
        options = {
            "BatchMode": "yes" if batch else "no",
            "ConnectTimeout": str(CONNECT_TIMEOUT_S),
            "ExitOnForwardFailure": "yes",
            "LogLevel": "ERROR",
            "ServerAliveInterval": "15",
            # A head that is new is trusted once, as `ray up` does; one that has become another is not.
            "StrictHostKeyChecking": "accept-new",
        }
        if self.key is not None:
            options["IdentitiesOnly"] = "yes"
        if self.proxy is not None:
            options["ProxyCommand"] = self.proxy
        command = ["ssh"]
        for name, value in options.items():
            command += ["-o", f"{name}={value}"]
        return command + ([] if self.key is None else ["-i", self.key])

    def _target(self) -> str:
        return f"{self.user}@{self.host}"

    def _remote(self, script: str, *, tty: bool = False) -> str:
        """A script as the text that SSH hands to the login shell, whichever that is."""
        missing = f"echo '{ENVIRONMENT} is missing: scripts/setup_node.sh did not run here' >&2; exit 2"
        command = ["sh", "-c", f"[ -f {ENVIRONMENT} ] || {{ {missing}; }}; . {ENVIRONMENT}; {script}"]
        if self.container is not None:
            command = ["docker", "exec", "-it" if tty else "-i", self.container, *command]
        return shlex.join(command)

    def _unreachable(self, said: str = "") -> SweeperError:
        why = f": {last_line(said)}" if said.strip() else ""
        return SweeperError(
            f"The head of {self.file} ({self._target()}) cannot be reached by SSH{why}. Is the cluster up "
            f"(`ray up {self.file}`), and is auth right there?"
        )


def find_cluster_head(file: Path) -> ClusterHead:
    """Find the head of the cluster that a file describes.

    Args:
        file: The file that `ray up` was given.

    Raises:
        UserError: If it is not a such file, or no cluster of it is up.
    """
    config = _read(file)
    if config["provider"].get("type") == "local":
        host, auth = config["provider"].get("head_ip"), config["auth"]
        if not host:
            raise UserError(f"{file}: provider.head_ip is missing.")
    else:
        host, auth = _ask_provider(file, config)
    docker = config.get("docker") or {}
    image = docker.get("image") or docker.get("head_image")
    key = auth.get("ssh_private_key")
    return ClusterHead(
        file=file,
        host=str(host),
        user=str(auth["ssh_user"]),
        key=None if key is None else str(Path(str(key)).expanduser()),
        proxy=auth.get("ssh_proxy_command"),
        container=str(docker["container_name"]) if image and docker.get("container_name") else None,
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            text = opened.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise UserError(f"--cluster: {file} cannot be read: {error.strerror}.") from error
    if len(text) > LARGEST_BYTES:
        raise UserError(f"--cluster: {file} is larger than {LARGEST_BYTES} bytes: not a cluster file.")
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"--cluster: {file} is not valid YAML: {last_line(str(error))}") from error
    for section, keys in (("provider", ("type",)), ("auth", ("ssh_user",))):
        found = config.get(section) if isinstance(config, dict) else None
        if not isinstance(found, dict) or any(not isinstance(found.get(key), str) for key in keys):
            raise UserError(
                f"--cluster: {file} has no {section}.{keys[0]}: expected the file that `ray up` was given."
            )
    for section in ("docker",):
        if not isinstance(config.get(section) or {}, dict):
            raise UserError(f"--cluster: {file}: {section} is not a mapping.")
    return dict(config)


def _ask_provider(file: Path, config: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Address and login of a head in a cloud."""
    from ray.autoscaler._private import commands

    try:
        # It fills in what Ray chose when it made the cluster: the key, above all.
        filled = commands._bootstrap_config(dict(config))
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            return str(commands.get_head_node_ip(str(file))), filled["auth"]
    except ImportError as error:
        raise UserError(f"{file}: Ray needs a package for this provider: {error}.") from error
    except Exception as error:
        # Whatever the provider's own library raises: its words are the best there are.
        raise UserError(
            f"{file}: no head of cluster {config.get('cluster_name')!r} was found: {last_line(str(error))}. "
            f"Is it up (`ray up {file}`), and are the credentials of the provider set here?"
        ) from error


def unused_port() -> int:
    """A port of this machine that no process listens at."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])
