"""Add a machine to a running cluster of one's own (`provider: local`) while sweeps run.

    python scripts/add_node.py CLUSTER_FILE ADDRESS

It does there what `ray up` does on a worker: copies what ``file_mounts`` names, runs ``setup_commands`` and
``worker_start_ray_commands``. (`ray up` itself tells a running autoscaler of no new address.) Put the address
into ``worker_ips``, too, so that the next `ray up` knows it.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


def main() -> int:
    """Add the machine; the exit code."""
    parser = argparse.ArgumentParser(description="Add a machine to a running cluster of one's own.")
    parser.add_argument("file", type=Path, help="the file that `ray up` was given")
    parser.add_argument("address", help="the machine")
    arguments = parser.parse_args()
    config: dict[str, Any] = yaml.safe_load(arguments.file.read_text())
    if config["provider"].get("type") != "local":
        print(
            "Only for clusters of one's own: a cloud's autoscaler adds machines by itself.", file=sys.stderr
        )
        return 2
    ssh = ["ssh", "-o", "StrictHostKeyChecking=accept-new", "-o", "ConnectTimeout=15", "-o", "LogLevel=ERROR"]
    ssh += ["-o", "ConnectionAttempts=30"]  # a machine that has just been switched on
    if config["auth"].get("ssh_private_key"):
        ssh += ["-i", str(Path(config["auth"]["ssh_private_key"]).expanduser())]
    target = f"{config['auth']['ssh_user']}@{arguments.address}"
    excluded = [f"--exclude={pattern}" for pattern in config.get("rsync_exclude", [])]
    for place, source in config["file_mounts"].items():
        local = Path(source).expanduser()
        # A path below the home folder is one that SSH begins in.
        there = place.removeprefix("~/")
        subprocess.run([*ssh, target, f"mkdir -p {shlex.quote(str(Path(there).parent))}"], check=True)
        slash = "/" if local.is_dir() else ""
        copy = [
            "rsync",
            "-a",
            "-e",
            shlex.join(ssh),
            *excluded,
            f"{local}{slash}",
            f"{target}:{there}{slash}",
        ]
        subprocess.run(copy, check=True)
    for command in (*config["setup_commands"], *config["worker_start_ray_commands"]):
        there = f"export RAY_HEAD_IP={config['provider']['head_ip']}; {command}"
        # What is started there must not hold the connection.
        subprocess.run(
            [*ssh, target, shlex.join(["bash", "-c", there])], check=True, stdin=subprocess.DEVNULL
        )
    print(f"{arguments.address} is a node of {config['cluster_name']}.")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed ({error.returncode}): {shlex.join(map(str, error.cmd))}")
