"""What is wrong with nodes, as judged from what they said: each finding with its remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["PLACES", "Diagnosis", "Level", "NodeReport", "judge"]

Level = Literal["wrong", "doubtful", "note", "fine"]

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
class Diagnosis:
    """One thing that was looked at.

    Attributes:
        level: ``wrong`` where sweeps will fail, ``doubtful`` where they may suffer, ``note`` where it is
            worth knowing, ``fine``.
        check: Stable name of the check, e.g. ``clock``.
        where: The node, or ``cluster``.
        found: What was found.
        remedy: What to do about it; empty where nothing is to be done.
    """

    level: Level
    check: str
    where: str
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class NodeReport:
    """What a node said.

    Attributes:
        name: What it is called here.
        is_head: Whether drivers of sweeps run there.
        gpus: GPUs that Ray gives out there.
        measured: What `sweeper.machines.doctor.probe.look` found; empty where it did not answer.
        skew_s: How far its clock is ahead of the one that asked, as far as can be told.
        silence: Why it did not answer; empty where it did.
        unread: Files of other nodes in the shared folder that it cannot read.
        unwritten: Why it cannot write there; empty where it can.
    """

    name: str
    is_head: bool
    gpus: float
    measured: Mapping[str, Any]
    skew_s: float = 0.0
    silence: str = ""
    unread: tuple[str, ...] = ()
    unwritten: str = ""


def judge(
    reports: Sequence[NodeReport], mlflow: str | None = None, *, alone: bool = False
) -> list[Diagnosis]:
    """Say what is wrong, from what the nodes said.

    Args:
        reports: What they said.
        mlflow: MLflow's server, or None where runs lie in each sweep's folder.
        alone: Whether this is one machine without a cluster.
    """
    diagnoses = [
        Diagnosis(
            "wrong",
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
    return [*diagnoses, *_token(answered, alone)]


def _versions(reports: Sequence[NodeReport]) -> list[Diagnosis]:
    """All nodes must run the same; what most of them run, or else the head, is taken for right."""
    diagnoses = []
    names = {
        "python": ("Python", "Install the same Python, to the patch level, and run scripts/setup_node.sh."),
        "ray": ("Ray", "Run scripts/setup_node.sh there: it installs what constraints.txt says."),
        "code": (
            "our code, by its digest,",
            "Bring the cluster up to date: `ray up FILE`. Where that does not help, remove "
            "~/diffusion-policy-sweeper there first: files that are gone here stay there.",
        ),
        "packages": ("packages", "Run scripts/setup_node.sh there: it installs what constraints.txt says."),
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
                text = f"{word} is {_told(found, usual)}, and other nodes have {_told(usual, found)}."
                diagnoses.append(Diagnosis("wrong", key, report.name, text[0].upper() + text[1:], remedy))
    if not diagnoses:
        identity = head.measured["identity"]
        text = f"Python {identity['python']}, Ray {identity['ray']}, sweeper {identity['package']}"
        every = f" on all {len(reports)} nodes" if len(reports) > 1 else ""
        where = "cluster" if len(reports) > 1 else head.name
        diagnoses.append(Diagnosis("fine", "versions", where, f"{text} ({identity['code']}){every}"))
    return diagnoses


def _told(found: str, other: str) -> str:
    """Of two dictionaries as texts, what differs."""
    if not found.startswith("{"):
        return found
    pairs = set(found.strip("{}").split(", ")) - set(other.strip("{}").split(", "))
    return ", ".join(sorted(pair.replace("'", "").replace(":", "") for pair in pairs))


def _gpus(report: NodeReport) -> list[Diagnosis]:
    measured = report.measured
    names, driver, cuda = measured["gpus"], measured["driver"], measured["torch_cuda"]
    if not report.gpus and not names:
        return [Diagnosis("note", "gpus", report.name, f"No GPU; {measured['cpus']} CPUs.")]
    if report.gpus > len(names):
        return [
            Diagnosis(
                "wrong",
                "gpus",
                report.name,
                f"Ray gives out {report.gpus:g} GPUs, and NVIDIA's driver lists {len(names)}.",
                "Install NVIDIA's driver, give the container its GPUs, or correct `resources` in the cluster "
                "file.",
            )
        ]
    if cuda is None:
        return [
            Diagnosis(
                "wrong",
                "gpus",
                report.name,
                f"{len(names)} GPUs ({names[0]}), and torch was built without CUDA.",
                "Run scripts/setup_node.sh there without a wheel for CPUs in the way.",
            )
        ]
    oldest = OLDEST_DRIVERS.get(cuda.partition(".")[0], 0)
    if driver is None or int(driver.partition(".")[0]) < oldest:
        return [
            Diagnosis(
                "wrong",
                "driver",
                report.name,
                f"NVIDIA's driver is {driver or 'missing'}, and torch, built for CUDA {cuda}, needs {oldest} "
                "or newer.",
                "Install a newer driver, or start the machines from a newer image.",
            )
        ]
    text = f"{len(names)} × {names[0]}, driver {driver}, torch for CUDA {cuda}"
    return [Diagnosis("fine", "gpus", report.name, text)]


def _disks(report: NodeReport) -> list[Diagnosis]:
    measured = report.measured
    diagnoses = []
    for key, what in PLACES.items():
        place = measured[key]
        if not place["writable"]:
            diagnoses.append(
                Diagnosis(
                    "wrong",
                    "disk",
                    report.name,
                    f"{place['path']} ({what}) cannot be written.",
                    "Give the account the right to, or name another folder to scripts/setup_node.sh.",
                )
            )
        elif place["free_gb"] < LEAST_DISK_GB:
            diagnoses.append(
                Diagnosis(
                    "doubtful",
                    "disk",
                    report.name,
                    f"{place['path']} ({what}) has {place['free_gb']:.1f} GB free, of "
                    f"{place['total_gb']:.0f}.",
                    "Make room, or name a folder on a larger disk to scripts/setup_node.sh.",
                )
            )
    if measured["shm_gb"] is not None and measured["shm_free_gb"] < LEAST_SHM_GB:
        diagnoses.append(
            Diagnosis(
                "doubtful",
                "shm",
                report.name,
                f"/dev/shm has {measured['shm_free_gb']:.2f} of {measured['shm_gb']:.2f} GB free: Ray and "
                "torch's workers exchange data through it.",
                "Give the container more (`--shm-size=8g`), or remove what lies there.",
            )
        )
    if measured["files"] < LEAST_FILES:
        diagnoses.append(
            Diagnosis(
                "doubtful",
                "files",
                report.name,
                f"A process may open {measured['files']} files only.",
                "`ulimit -n 65536` before `ray start`, as the cluster files here do.",
            )
        )
    rooms = [f"{measured[key]['free_gb']:.0f} GB free for {word}" for key, word in PLACES.items()]
    return diagnoses or [Diagnosis("fine", "disk", report.name, ", ".join(rooms))]


def _store(report: NodeReport, alone: bool) -> list[Diagnosis]:
    if alone:
        return []
    path = report.measured["sweeps"]["path"]
    remedy = (
        "Mount the shared folder there, at the same path as on the head, and name it to "
        "scripts/setup_node.sh --sweeps."
    )
    if report.unwritten:
        return [
            Diagnosis("wrong", "store", report.name, f"{path} takes no file: {report.unwritten}.", remedy)
        ]
    if report.unread:
        text = f"{path} is not shared: {len(report.unread)} files that other nodes wrote are missing here."
        return [Diagnosis("wrong", "store", report.name, text, remedy)]
    return [Diagnosis("fine", "store", report.name, f"{path} is shared: what every node writes is read here")]


def _mlflow(report: NodeReport, server: str | None) -> list[Diagnosis]:
    if server is None:
        text = "MLflow: no server is named; each sweep keeps its runs in its own folder."
        return [Diagnosis("note", "mlflow", report.name, text)] if report.is_head else []
    problem = report.measured["mlflow"]
    if not problem:
        return [Diagnosis("fine", "mlflow", report.name, f"MLflow answers at {server}")]
    if report.is_head:
        return [
            Diagnosis(
                "wrong",
                "mlflow",
                report.name,
                f"MLflow does not answer at {server}: {problem}.",
                "`sh scripts/mlflow_service.sh start` on the head, or correct MLFLOW_TRACKING_URI. Sweeps go "
                "on without it, and `sweeper sync` brings it what it lacks.",
            )
        ]
    text = f"{server} (MLflow) is not reached from here and need not be: the head alone writes to it."
    return [Diagnosis("note", "mlflow", report.name, text)]


def _clock(report: NodeReport) -> list[Diagnosis]:
    if abs(report.skew_s) <= LARGEST_SKEW_S:
        return []
    ahead = "ahead of" if report.skew_s > 0 else "behind"
    return [
        Diagnosis(
            "doubtful",
            "clock",
            report.name,
            f"The clock is {abs(report.skew_s):.1f} s {ahead} the head's: times of trials will be wrong.",
            "Have it set by NTP: `sudo timedatectl set-ntp true`.",
        )
    ]


def _token(reports: Sequence[NodeReport], alone: bool) -> list[Diagnosis]:
    if alone:
        return []
    without = [report.name for report in reports if not report.measured["token"]]
    if not without:
        return [Diagnosis("fine", "token", "cluster", "Ray asks everybody for the token")]
    return [
        Diagnosis(
            "doubtful",
            "token",
            ", ".join(without),
            "Ray runs without token authentication: whoever reaches its ports can run anything there.",
            "`ray get-auth-token --generate` on the laptop; the cluster files here copy it to every node. "
            "Then `ray up` again.",
        )
    ]
