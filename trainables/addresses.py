"""Addresses of datasets in object stores, checked before a store is contacted.

Imports only the standard library, and fsspec, which is quick to import, when an address is checked.
"""

from __future__ import annotations

import re

from trainables.interface import Fault, is_url

__all__ = ["address_faults", "missing_package"]

LOCAL = ("file", "local")
WEB = ("http", "https")
_PORT = re.compile(r"[^:@]*(?::\d*)?")


def address_faults(field: str, address: str) -> list[Fault]:
    """Check the address of a folder in an object store; returns no faults if it is legal.

    Messages leave out what may be a password.

    Args:
        field: The configuration field of the address.
        address: A text for which ``is_url`` is true.
    """
    protocol, _, rest = address.partition("://")
    host = rest.partition("/")[0]
    if "::" in address:
        problem = "several file systems are chained by '::'."
        return [Fault(field, problem, "Name only the one that contains the folder: s3://bucket/folder.")]
    if not _PORT.fullmatch(host):
        problem = f"{protocol}://… contains credentials, but addresses are recorded."
        remedy = "Leave them out: each machine reads them from its environment, as the store's own tools do."
        if protocol in ("abfs", "abfss"):
            remedy = "Write az://container/folder, and set AZURE_STORAGE_ACCOUNT_NAME on each machine."
        return [Fault(field, problem, remedy)]
    if "?" in rest or "#" in rest:
        problem = f"{protocol}://{host}/… has a part after '?' or '#', which may contain a key."
        remedy = "Leave it out: addresses are recorded. Each machine reads keys from its environment."
        return [Fault(field, problem, remedy)]
    if protocol in WEB:
        remedy = "Name a dataset on the hub as dataset.repo_id: owner/name, in a store as s3://bucket/folder."
        return [Fault(field, f"{address!r} is a web page, and a web page does not list files.", remedy)]
    if protocol in LOCAL and host:
        remedy = f"Write the path from the root: {protocol}:///home/..."
        return [Fault(field, f"{address!r} is not a path from the root.", remedy)]
    if not rest.strip("/"):
        return [Fault(field, f"{address!r} does not name a folder.", f"Write {protocol}://bucket/folder.")]
    from fsspec import available_protocols

    if protocol not in available_protocols():
        remedy = "Use s3://, gs://, az://, or another protocol of fsspec, in lower case."
        return [Fault(field, f"{address!r}: unknown protocol {protocol!r}.", remedy)]
    return []


def missing_package(address: str) -> str | None:
    """Name the package that is needed here to open an address; None if none is missing."""
    from fsspec import get_filesystem_class
    from fsspec.registry import known_implementations

    protocol = address.partition("://")[0]
    if not is_url(address) or protocol not in known_implementations:
        return None
    try:
        get_filesystem_class(protocol)
    except ImportError:
        package = known_implementations[protocol]["class"].partition(".")[0]
        # Some are part of fsspec itself and need another package, which the text of their error names.
        return package if package != "fsspec" else _named(known_implementations[protocol].get("err", ""))
    return None


def _named(text: str) -> str:
    """The package that is named in ``SFTPFileSystem requires "paramiko" to be installed``."""
    found = re.search(r'"([\w.-]+)"', text)
    return found[1] if found else text or "a package"
