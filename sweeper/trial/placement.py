"""The place of a trial in a cluster that it shares: it waits until there is room, says so, and gets its turn.

A trial's workers run in a placement group. Ray gives free resources to whichever waiting group fits and asks
first, so that one sweep could keep another waiting. Therefore a trial does not ask while one of another sweep
waits that would fit if it fits; and after a while not while a larger one waits for the same thing. For the
same reason it does not take over the place of the trial before it then.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.layout import write_whole
from sweeper.text import counted

__all__ = [
    "WAITING",
    "Withdrawn",
    "acquire_placement_group",
    "elder_rival",
    "free_groups",
    "free_placement_groups",
    "group_prefix",
    "has_priority",
    "needs_text",
    "waits_for",
]

WAITING = "waiting.json"
"""File in a trial's folder while its workers wait for resources."""
SAID_AFTER_S = 2.0
"""Resources are found in less than this if they are free."""
LOOK_S = 0.5
STARVED_S = 60.0
"""A trial that has waited for this long goes before smaller ones of other sweeps, too."""


class Withdrawn(SystemExit):
    """The trial was asked to stop while it waited for its place."""


def acquire_placement_group(
    group_name: str,
    bundles: Sequence[Mapping[str, float]],
    strategy: str,
    *,
    folder: Path,
    given_up: Callable[[], bool],
    **options: Any,
) -> Any:
    """Create a placement group and wait until it is ready, without a time limit.

    Args:
        group_name: ``sweeper/<sweep>/<slot>``; the group's name begins with it.
        bundles: What each worker takes.
        strategy: Ray's placement strategy.
        folder: The trial's folder, in which `WAITING` says what it waits for.
        given_up: Asked whether the trial is not to begin any more.
        **options: For Ray's ``placement_group``.

    Raises:
        Withdrawn: If the trial is withdrawn; it holds no resources then.
    """
    from ray.util.placement_group import placement_group, remove_placement_group

    needs = needs_text(bundles)
    since = time.time()
    group = None
    try:
        while group is None or not group.wait(LOOK_S):
            if given_up():
                raise Withdrawn(0)
            if group is None and not elder_rival(group_name, bundles):
                # Names of living groups are unique in a cluster, and a retried trial has a second one.
                name = f"{group_name}/{int(since * 1000)}-{uuid.uuid4().hex[:8]}"
                group = placement_group(list(map(dict, bundles)), strategy, name=name, **options)
            elif group is None:
                time.sleep(LOOK_S)
            if time.time() - since > SAID_AFTER_S:
                _say(folder, needs, since)
    except BaseException:
        if group is not None:
            remove_placement_group(group)
        raise
    finally:
        (folder / WAITING).unlink(missing_ok=True)
    return group


def needs_text(bundles: Sequence[Mapping[str, float]]) -> str:
    """What bundles hold together, e.g. ``1 GPU and 4 CPUs``."""
    parts = []
    for kind in ("GPU", "CPU"):
        total = sum(bundle.get(kind, 0.0) for bundle in bundles)
        if total:
            parts.append(counted(total, kind))
    return " and ".join(parts) or "a place"


def waits_for(folder: Path) -> str:
    """What the trial in ``folder`` waits for; empty if it has its place."""
    try:
        return str(json.loads((folder / WAITING).read_text())["needs"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _say(folder: Path, needs: str, since: float) -> None:
    path = folder / WAITING
    if not path.exists():
        # Not durable: after a power cut no trial waits here.
        write_whole(path, json.dumps({"needs": needs, "since": since}), durable=False)


def elder_rival(group_name: str, bundles: Sequence[Mapping[str, float]]) -> bool:
    """Whether a trial of another sweep that waits already is to be placed before this one asks."""
    import ray
    from ray.util.placement_group import placement_group_table

    ours = group_name.rpartition("/")[0] + "/"
    totals = ray.cluster_resources()
    for entry in placement_group_table().values():
        name = entry["name"]
        asked = name.rpartition("/")[2].partition("-")[0]
        if entry["state"] != "PENDING" or not name.startswith("sweeper/") or not asked.isdigit():
            continue
        waited_s = time.time() - int(asked) / 1000
        if not name.startswith(ours) and has_priority(
            list(entry["bundles"].values()), waited_s, bundles, totals
        ):
            return True
    return False


def has_priority(
    elder: Sequence[Mapping[str, float]],
    waited_s: float,
    bundles: Sequence[Mapping[str, float]],
    totals: Mapping[str, float],
) -> bool:
    """Whether a trial that waits for ``elder`` goes before one that wants ``bundles``.

    Args:
        elder: What each worker of the one that waits takes.
        waited_s: How long it has waited.
        bundles: What each worker of the other one takes.
        totals: What the whole cluster has; who wants more has no turn to be waited for.
    """
    wanted, ours = _totals(elder), _totals(bundles)
    scarce = "GPU" if wanted.get("GPU") else "CPU"
    if not ours.get(scarce) or any(amount > totals.get(kind, 0.0) for kind, amount in wanted.items()):
        return False
    smaller = all(amount <= ours.get(kind, 0.0) for kind, amount in wanted.items())
    # What is larger may not fit for long, although others would.
    return smaller or waited_s >= STARVED_S


def _totals(bundles: Sequence[Mapping[str, float]]) -> dict[str, float]:
    kinds = {kind for bundle in bundles for kind in ("GPU", "CPU") if bundle.get(kind)}
    return {kind: sum(bundle.get(kind, 0.0) for bundle in bundles) for kind in kinds}


def free_placement_groups(prefix: str) -> int:
    """Remove the placement groups whose names begin with ``prefix``, and with them the workers inside.

    Returns:
        How many were removed.
    """
    import ray
    from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group

    removed = 0
    for group_id, entry in placement_group_table().items():
        if entry["name"].startswith(prefix) and entry["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group_id))))
            removed += 1
    return removed


def group_prefix(group: str, slot: str | None = None) -> str:
    """How the names of the placement groups of a slot begin, or of all slots of a sweep.

    Args:
        group: What all groups of the sweep are called by.
        slot: The identifier of the process of Tune that runs a trial, and then the next one in its place.
    """
    return f"sweeper/{group}/" if slot is None else f"sweeper/{group}/{slot}/"


def free_groups(group: str, slot: str | None = None) -> int:
    """Take the workers of a slot, or of all slots of a sweep, away at once; how many groups there were."""
    return free_placement_groups(group_prefix(group, slot))
