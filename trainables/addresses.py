"""Addresses of datasets in object stores: what is wrong with one before any store is asked.

Only the standard library is imported; fsspec, which is quick to import, where an address is looked at.
"""

from __future__ import annotations

import re

from trainables.interface import Fault, is_url

__all__ = ["address_faults", "missing_package"]

LOCAL = ("file", "local")
WEB = ("http", "https")
_PORT = re.compile(r"[^:@]*(?::\d*)?")


def address_faults(field: str, address: str) -> list[Fault]:
    """Say what is wrong with the address of a folder in an object store; empty if nothing is.

    What may be a password is not repeated.

    Args:
        field: The configuration field that has it.
        address: What ``is_url`` takes for an address.
    """
    protocol, _, rest = address.partition("://")
    host = rest.partition("/")[0]
    if "::" in address:
        problem = "several file systems are chained by '::'."
        return [Fault(field, problem, "Name the one that holds the folder: s3://bucket/folder.")]
    if not _PORT.fullmatch(host):
        problem = f"{protocol}://… contains credentials, and addresses are recorded."
        remedy = "Leave them out: each machine reads them from its environment, in the way of the store."
        if protocol in ("abfs", "abfss"):
            remedy = "Write az://container/folder, and set AZURE_STORAGE_ACCOUNT_NAME on each machine."
        return [Fault(field, problem, remedy)]
    if "?" in rest or "#" in rest:
        problem = f"{protocol}://{host}/… has a part behind '?' or '#', where keys are passed."
        return [Fault(field, problem, "Leave it out: logins come from each machine's environment.")]
    if protocol in WEB:
        remedy = "A dataset of the hub is dataset.repo_id: owner/name; one in a store is s3://bucket/folder."
        return [Fault(field, f"{address!r} is a web page, which lists no files.", remedy)]
    if protocol in LOCAL and host:
        remedy = f"Write the path from the root: {protocol}:///home/..."
        return [Fault(field, f"{address!r} names no folder from the root.", remedy)]
    if not rest.strip("/"):
        return [Fault(field, f"{address!r} names no folder.", f"Write {protocol}://bucket/folder.")]
    from fsspec import available_protocols

    if protocol not in available_protocols():
        remedy = "Expected s3://, gs://, az://, or another protocol of fsspec, in small letters."
        return [Fault(field, f"{address!r}: there is no protocol {protocol!r}.", remedy)]
    return []


def missing_package(address: str) -> str | None:
    """Name the package without which an address cannot be opened here; None if none is missing."""
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0]
    if not is_url(address) or protocol not in known_implementations:
        return None
    try:
        get_filesystem_class(protocol)
    except ImportError:
        package = known_implementations[protocol]["class"].partition(".")[0]
        # Some are part of fsspec itself and lack what they are built on, which their text names.
        return package if package != "fsspec" else _named(known_implementations[protocol].get("err", ""))
    return None


def _named(text: str) -> str:
    """The package that is named in ``SFTPFileSystem requires "paramiko" to be installed``."""
    found = re.search(r'"([\w.-]+)"', text)
    return found[1] if found else text or "a package"
