"""Hosts on one machine, made of namespaces: each has its own address, processes, home and shared memory.

All of them, and the laptop that `ray up` is run from, live in one outer set of namespaces, so that nothing
touches the machine and everything is gone when the outer process ends. Needs Linux, root, sshd and iproute2.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["NETWORK", "Host", "enter", "lacking", "make_network"]

INSIDE = "SWEEPER_TEST_HOSTS"
NETWORK = "10.77.0"
SHM = "size=2g"
START_S = 60.0
"""How long its SSH server may take to listen."""


def lacking() -> list[str]:
    """What this machine lacks for such hosts."""
    missing = [tool for tool in ("unshare", "ip", "ssh", "ssh-keygen", "rsync") if shutil.which(tool) is None]
    if sshd() is None:
        missing.append("sshd")
    if os.geteuid() != 0:
        missing.append("root")
    if not missing:
        probe = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"]
        if subprocess.run(probe, capture_output=True).returncode:
            missing.append("the right to make namespaces")
    return missing


def sshd() -> str | None:
    return shutil.which("sshd") or next((path for path in ("/usr/sbin/sshd",) if Path(path).exists()), None)


def enter(work: Path) -> None:
    """Go on in the outer namespaces: runs this program anew there, and ends with its exit code."""
    if os.environ.get(INSIDE) == str(work):
        return
    command = ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "--mount-proc", "--kill-child"]
    environment = {**os.environ, INSIDE: str(work)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = subprocess.Popen([*command, sys.executable, *sys.argv], env=environment)
    try:
        sys.exit(process.wait())
    except KeyboardInterrupt:
        # With the first process of the inner namespaces everything in them ends.
        process.kill()
        process.wait()
        sys.exit(130)


def make_network(work: Path) -> Path:
    """The bridge that hosts hang on, and the laptop's own home; gives the laptop's key for SSH."""
    _run("mount", "--make-rprivate", "/")
    Path("/run/netns").mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "tmpfs", "/run/netns")
    Path("/run/sshd").mkdir(exist_ok=True)
    _own_folders(work / "laptop")
    _run("ip", "link", "set", "lo", "up")
    _run("ip", "link", "add", "br0", "type", "bridge")
    _run("ip", "addr", "add", f"{NETWORK}.1/24", "dev", "br0")
    _run("ip", "link", "set", "br0", "up")
    key = work / "key"
    for name in ("key", "host_key"):
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / name))
    return key


class Host:
    """A host on the network.

    Args:
        number: Last part of its address.
        work: Folder for its home.
    """

    def __init__(self, number: int, work: Path) -> None:
        self.address = f"{NETWORK}.{number}"
        self.name = f"h{number}"
        self.home = work / self.name
        self._work = work
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Host:
        """Connect it and start its SSH server, which is its first process."""
        name = self.name
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"{name}o", "type", "veth", "peer", "name", f"{name}i", "netns", name)
        _run("ip", "link", "set", f"{name}o", "master", "br0", "up")
        inside = ["ip", "netns", "exec", name]
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "addr", "add", f"{self.address}/24", "dev", f"{name}i")
        _run(*inside, "ip", "link", "set", f"{name}i", "up")
        _run(*inside, "ip", "route", "add", "default", "via", f"{NETWORK}.1")
        server = [
            *(str(sshd()), "-D", "-e", "-h", str(self._work / "host_key"), "-o", "UsePAM=no"),
            *("-o", f"AuthorizedKeysFile={self._work}/key.pub", "-o", "StrictModes=no"),
            *("-o", f"PidFile={self.home}/sshd.pid", "-o", "PermitRootLogin=yes", "-f", "/dev/null"),
        ]
        command = [sys.executable, __file__, name, str(self.home), *server]
        separated = ["unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "--kill-child"]
        with (self._work / f"{name}.log").open("wb") as log:
            self._process = subprocess.Popen([*inside, *separated, *command], stdout=log, stderr=log)
        self._wait_for_server()
        return self

    def _wait_for_server(self) -> None:
        until = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection((self.address, 22), timeout=1.0).close()
                return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    def kill(self) -> None:
        """Cut the power: all its processes end at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        _run("ip", "link", "delete", f"{self.name}o")

    def processes(self, key: Path) -> list[str]:
        """Command lines of what runs there, the SSH server and kernel's own left out."""
        options = ["-i", str(key), "-o", "StrictHostKeyChecking=accept-new", "-o", "LogLevel=ERROR"]
        listed = subprocess.run(
            ["ssh", *options, f"root@{self.address}", "ps -eo stat=,args="],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        ours = ("sshd", "ps -eo", "sshd-session")
        return [
            line for line in listed if not line.startswith("Z") and not any(word in line for word in ours)
        ]


def _own_folders(home: Path) -> None:
    """Give this mount namespace a home, and temporary folders of Ray, of its own."""
    home.mkdir(parents=True, exist_ok=True)
    base, real = Path(sys.base_prefix).resolve(), Path.home()
    if base.is_relative_to(real):
        # The interpreter lies in the home folder, which is about to be hidden.
        place = home / base.relative_to(real)
        place.mkdir(parents=True, exist_ok=True)
        _run("mount", "--bind", str(base), str(place))
    _run("mount", "--rbind", str(home), str(real))
    for folder, options in (("/tmp/ray", "mode=777"), ("/dev/shm", SHM)):
        Path(folder).mkdir(exist_ok=True)
        _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _be_host(name: str, home: Path, server: Sequence[str]) -> None:
    """Become the first process of a host."""
    _run("mount", "--make-rprivate", "/")
    _run("hostname", name)
    _own_folders(home)
    clean = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(Path.home())}
    with subprocess.Popen(server, env=clean) as running:
        # The first process takes in those whose parents ended.
        while running.poll() is None:
            time.sleep(0.2)
            while True:
                try:
                    found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                except ChildProcessError:
                    break
                if found is None or found.si_pid == running.pid:
                    break
                os.waitpid(found.si_pid, 0)


if __name__ == "__main__":
    _be_host(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
