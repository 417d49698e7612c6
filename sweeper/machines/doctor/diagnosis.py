"""Problems of nodes, from their measurements: each finding with its remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.interface import Finding, Severity

__all__ = ["PLACES", "NodeReport", "finding", "judge"]

LEAST_DISK_GB = 10.0
LEAST_SHM_GB = 1.0
LEAST_FILES = 4096
LARGEST_SKEW_S = 2.0
"""Clocks that differ by more put events of several machines into a wrong order."""
PLACES = {"sweeps": "sweeps", "cache": "decoded frames"}
"""The folders that a node writes to, and what for."""
OLDEST_DRIVERS = {"13": 580, "12": 525, "11": 450}
"""NVIDIA's drivers that can run what was built for a CUDA, by its major version."""


@dataclass(frozen=True)
class NodeReport:
    """What a node said.

    Attributes:
        name: What it is called here.
        is_head: Whether drivers of sweeps run there.
        gpus: GPUs that Ray offers there.
        measured: What `sweeper.machines.doctor.probe.look` found; empty if it did not answer.
        skew_s: How far its clock is ahead of that of the examining process, as far as known.
        silence: Why it did not answer; empty if it did.
        unread: Files of other nodes in the shared folder that it cannot read.
        unwritten: Why it cannot write there; empty if it can.
    """

    name: str
    is_head: bool
    gpus: float
    measured: Mapping[str, Any]
    skew_s: float = 0.0
    silence: str = ""
    unread: tuple[str, ...] = ()
    unwritten: str = ""


def finding(severity: Severity, check: str, where: str, problem: str, remedy: str = "") -> Finding:
    """A finding about a node, or about the cluster."""
    return Finding(check, severity, where, problem, remedy=remedy)


def judge(reports: Sequence[NodeReport], mlflow: str | None = None, *, alone: bool = False) -> list[Finding]:
    """Say what is wrong, from what the nodes said.

    Args:
        reports: What they said.
        mlflow: MLflow's server, or None if runs lie in each sweep's folder.
        alone: Whether this is one machine without a cluster.
    """
    diagnoses = [
        finding(
            "error",
            "answer",
            report.name,
            f"The node cannot run our code: {report.silence}",
            "Run scripts/setup_node.sh there, or end the node (`ray stop`).",
        )
        for report in reports
        if report.silence
    ]
    answered = [report for report in reports if not report.silence]
    if not answered:
        return diagnoses
    diagnoses += _versions(answered)
    for report in answered:
        diagnoses += [*_gpus(report), *_disks(report), *_store(report, alone), *_mlflow(report, mlflow)]
        diagnoses += _clock(report)
    return [*diagnoses, *_temporary(answered, alone), *_token(answered, alone)]


def _temporary(reports: Sequence[NodeReport], alone: bool) -> list[Finding]:
    """On a cluster Ray runs already; on one machine a launch starts it."""
    faults = [(report.name, str(report.measured.get("ray_temporary", ""))) for report in reports]
    return [finding("error", "temporary folder", name, fault) for name, fault in faults if fault and alone]


def _versions(reports: Sequence[NodeReport]) -> list[Finding]:
    """All nodes must run the same versions: those of most nodes, or else those of the head."""
    diagnoses = []
    names = {
        "python": (
            "Python is",
            "Install the same Python, to the patch level, and run scripts/setup_node.sh.",
        ),
        "ray": ("Ray is", "Run scripts/setup_node.sh there: it installs the versions in constraints.txt."),
        "code": (
            "The digest of sweeper's code is",
            "Bring the cluster up to date: `ray up FILE`. If that does not help, delete "
            "~/diffusion-policy-sweeper there first: files deleted here remain there otherwise.",
        ),
        "packages": (
            "Its packages are",
            "Run scripts/setup_node.sh there: it installs the versions in constraints.txt.",
        ),
    }
    head = next((report for report in reports if report.is_head), reports[0])
    for key, (word, remedy) in names.items():
        counted = Counter(str(report.measured["identity"][key]) for report in reports)
        usual, count = counted.most_common(1)[0]
        if count * 2 <= len(reports):
            usual = str(head.measured["identity"][key])
        for report in reports:
            found = str(report.measured["identity"][key])
            if found != usual:
                text = (
                    f"{word} {_difference(found, usual)}, but other nodes have {_difference(usual, found)}."
                )
                diagnoses.append(finding("error", key, report.name, text, remedy))
    if not diagnoses:
        identity = head.measured["identity"]
        text = f"Python {identity['python']}, Ray {identity['ray']}, sweeper {identity['package']}"
        every = f" on all {len(reports)} nodes" if len(reports) > 1 else ""
        where = "cluster" if len(reports) > 1 else head.name
        diagnoses.append(finding("fine", "versions", where, f"{text} ({identity['code']}){every}"))
    return diagnoses


def _difference(found: str, other: str) -> str:
    """The found value; of two dictionaries as texts, its entries that differ."""
    if not found.startswith("{"):
        return found
    pairs = set(found.strip("{}").split(", ")) - set(other.strip("{}").split(", "))
    return ", ".join(sorted(pair.replace("'", "").replace(":", "") for pair in pairs))


def _gpus(report: NodeReport) -> list[Finding]:
    measured = report.measured
    names, driver, cuda = measured["gpus"], measured["driver"], measured["torch_cuda"]
    if not report.gpus and not names:
        return [finding("note", "gpus", report.name, f"No GPU; {measured['cpus']} CPUs.")]
    if report.gpus > len(names):
        return [
            finding(
                "error",
                "gpus",
                report.name,
                f"Ray offers {report.gpus:g} GPUs, but NVIDIA's driver lists {len(names)}.",
                "Install NVIDIA's driver, give the container its GPUs, or correct `resources` in the cluster "
                "file.",
            )
        ]
    if cuda is None:
        return [
            finding(
                "error",
                "gpus",
                report.name,
                f"{len(names)} × {names[0]}, but torch was built without CUDA.",
                "Remove the build of torch for CPUs there, then run scripts/setup_node.sh.",
            )
        ]
    oldest = OLDEST_DRIVERS.get(cuda.partition(".")[0], 0)
    if driver is None or int(driver.partition(".")[0]) < oldest:
        return [
            finding(
                "error",
                "driver",
                report.name,
                f"NVIDIA's driver is {driver or 'missing'}, but torch, built for CUDA {cuda}, needs {oldest} "
                "or newer.",
                "Install a newer driver, or start the machines from a newer image.",
            )
        ]
    text = f"{len(names)} × {names[0]}, driver {driver}, torch for CUDA {cuda}"
    return [finding("fine", "gpus", report.name, text)]


def _disks(report: NodeReport) -> list[Finding]:
    measured = report.measured
    diagnoses = []
    for key, what in PLACES.items():
        place = measured[key]
        if not place["writable"]:
            diagnoses.append(
                finding(
                    "error",
                    "disk",
                    report.name,
                    f"{place['path']} ({what}) cannot be written.",
                    "Give the account the right to, or name another folder to scripts/setup_node.sh.",
                )
            )
        elif place["free_gb"] < LEAST_DISK_GB:
            diagnoses.append(
                finding(
                    "warning",
                    "disk",
                    report.name,
                    f"{place['path']} ({what}) has {place['free_gb']:.1f} GB free, of "
                    f"{place['total_gb']:.0f}.",
                    "Free some space, or pass a folder on a larger disk to scripts/setup_node.sh.",
                )
            )
    if measured["shm_gb"] is not None and measured["shm_free_gb"] < LEAST_SHM_GB:
        diagnoses.append(
            finding(
                "warning",
                "shm",
                report.name,
                f"/dev/shm has {measured['shm_free_gb']:.2f} of {measured['shm_gb']:.2f} GB free: Ray and "
                "torch's workers exchange data through it.",
                "Give the container more (`--shm-size=8g`), or delete files there.",
            )
        )
    if measured["files"] < LEAST_FILES:
        diagnoses.append(
            finding(
                "warning",
                "files",
                report.name,
                f"A process may open only {measured['files']} files.",
                "Run `ulimit -n 65536` before `ray start`, as the cluster files here do.",
            )
        )
    rooms = [f"{measured[key]['free_gb']:.0f} GB free for {word}" for key, word in PLACES.items()]
    return diagnoses or [finding("fine", "disk", report.name, ", ".join(rooms))]


def _store(report: NodeReport, alone: bool) -> list[Finding]:
    if alone:
        return []
    path = report.measured["sweeps"]["path"]
    remedy = (
        "Mount the shared folder there, at the same path as on the head, and pass it to "
        "scripts/setup_node.sh --sweeps."
    )
    if report.unwritten:
        return [
            finding("error", "store", report.name, f"{path} cannot be written: {report.unwritten}.", remedy)
        ]
    if report.unread:
        text = f"{path} is not shared: {len(report.unread)} files that other nodes wrote are missing here."
        return [finding("error", "store", report.name, text, remedy)]
    return [finding("fine", "store", report.name, f"{path} is shared: what every node writes is read here")]


def _mlflow(report: NodeReport, server: str | None) -> list[Finding]:
    if server is None:
        text = "MLflow: no server is configured. Each sweep keeps its runs in its own folder."
        return [finding("note", "mlflow", report.name, text)] if report.is_head else []
    problem = report.measured["mlflow"]
    if not problem:
        return [finding("fine", "mlflow", report.name, f"MLflow answers at {server}")]
    if report.is_head:
        return [
            finding(
                "error",
                "mlflow",
                report.name,
                f"MLflow does not answer at {server}: {problem}.",
                "Run `sh scripts/mlflow_service.sh start` on the head, or correct MLFLOW_TRACKING_URI. "
                "Sweeps run without it, and `sweeper sync` uploads the missing data.",
            )
        ]
    text = f"{server} (MLflow) is not reached from here and need not be: the head alone writes to it."
    return [finding("note", "mlflow", report.name, text)]


def _clock(report: NodeReport) -> list[Finding]:
    if abs(report.skew_s) <= LARGEST_SKEW_S:
        return []
    ahead = "ahead of" if report.skew_s > 0 else "behind"
    return [
        finding(
            "warning",
            "clock",
            report.name,
            f"The clock is {abs(report.skew_s):.1f} s {ahead} the head's: times of trials will be wrong.",
            "Synchronise it by NTP: `sudo timedatectl set-ntp true`.",
        )
    ]


def _token(reports: Sequence[NodeReport], alone: bool) -> list[Finding]:
    if alone:
        return []
    without = [report.name for report in reports if not report.measured["token"]]
    if not without:
        return [finding("fine", "token", "cluster", "Ray requires the token from every client")]
    return [
        finding(
            "warning",
            "token",
            ", ".join(without),
            "Ray runs without token authentication: anyone with access to its ports can run any code there.",
            "Run `ray get-auth-token --generate` on the laptop. The cluster files here copy it to every "
            "node. Then run `ray up` again.",
        )
    ]
