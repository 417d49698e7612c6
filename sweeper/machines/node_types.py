"""On which kinds of machine the workers of trials run, for machines that have different prices."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sweeper.trial.placement import group_prefix

__all__ = ["LABELS", "kind_of_node", "node_types_of_trials"]

LABELS = ("ray.io/node-group", "ray.io/accelerator-type")
"""Labels of a node in Ray: its type in the file of the cluster, and the type of its GPUs."""


def node_types_of_trials(
    group: str, slots: Mapping[int, str], known: Collection[str]
) -> dict[int, list[str]]:
    """The kind of machine of each worker, for those of the trials that have their place.

    Args:
        group: The name that the placement groups of the sweep share.
        slots: The slot in which each trial runs, by its number.
        known: The kinds that have prices of their own. All others are an empty text.
    """
    import ray
    from ray.util.placement_group import placement_group_table

    found: dict[int, list[str]] = {}
    kinds: dict[str, str] | None = None
    prefixes = {number: group_prefix(group, slot) for number, slot in slots.items()}
    for entry in placement_group_table().values():
        trial = next((one for one, prefix in prefixes.items() if entry["name"].startswith(prefix)), None)
        if trial is None or entry["state"] != "CREATED":
            continue
        if kinds is None:
            kinds = {node["NodeID"]: kind_of_node(node, known) for node in ray.nodes()}
        found[trial] = [kinds.get(node, "") for node in entry["bundles_to_node_id"].values()]
    return found


def kind_of_node(node: Mapping[str, Any], known: Collection[str]) -> str:
    """The kind of a node that Ray lists, by the first of `LABELS` that has a price; empty if none has."""
    labels = node.get("Labels") or {}
    return next((labels[name] for name in LABELS if labels.get(name) in known), "")
