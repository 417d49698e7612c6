"""The workers of a slot: when a trial has ended well they stay for the next trial in the same place.

A slot is a process of Tune in which trials run one after the other, by the identifier of its actor. It keeps
the workers of its last trial with their placement group, for a moment: the caller that runs the sweep frees
the groups of a slot that has no trial (`sweeper.trial.placement`). Workers are ended, and new ones started,
after a failure, after `trials_per_process` trials, if a process cannot be put back as it was
(`sweeper.trial.process`), and if a trial of another sweep waits for the place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table

__all__ = ["Kept", "Slot", "the_slot"]

LEAVE_S = 10.0
"""How long the training of a trial that was stopped may take to leave: the length of a few steps."""
ANSWER_S = 60.0
"""How long a worker may take to answer on a busy machine; one that is gone is noticed at once."""

log = logging.getLogger(__name__)


@dataclass
class Kept:
    """Workers without a trial.

    Attributes:
        needs: What they were started for: only a trial that needs the same can have them.
        actors: The actors of the workers, by their bundle in the placement group.
        group: The placement group that they are in.
        synchronisation: What the workers wait for each other with.
        trials: The number of trials that they have had.
    """

    needs: Any
    actors: list[Any]
    group: PlacementGroup
    synchronisation: Any
    trials: int

    def end(self) -> None:
        """End the workers, and free their place."""
        for actor in (*self.actors, self.synchronisation):
            if isinstance(actor, ray.actor.ActorHandle):
                with contextlib.suppress(Exception):  # it may be gone
                    ray.kill(actor)
        with contextlib.suppress(Exception):
            ray.util.remove_placement_group(self.group)

    def lives(self) -> bool:
        """Whether all exist and answer, and their place has not been freed."""
        if placement_group_table(self.group).get("state") != "CREATED":
            return False
        try:
            ray.get([actor.get_metadata.remote() for actor in self.actors], timeout=ANSWER_S)
        except Exception:  # whatever is wrong with them, others are started
            return False
        return True


class Slot:
    """Keeps the workers of this process between trials."""

    def __init__(self) -> None:
        self._kept: Kept | None = None

    def take(self, needs: Any, gives_way: Callable[[], bool]) -> Kept | None:
        """Take the workers that wait here for a trial; None if new ones are needed.

        Args:
            needs: What the trial needs.
            gives_way: Whether another trial is to have the place first.
        """
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        if kept.needs == needs and kept.lives() and not gives_way():
            return kept
        kept.end()
        return None

    def keep(self, kept: Kept, most: int, vacate: Callable[[float], str]) -> bool:
        """Keep workers for the next trial; False if they are not fit for one.

        Args:
            kept: The workers; ``trials`` includes the one that has just ended.
            most: The number of trials after which workers are replaced.
            vacate: What a worker runs to become free, with a time limit; why it cannot be used again.
        """
        if kept.trials >= most:
            return False
        try:
            faults = ray.get(
                [actor.execute.remote(vacate, LEAVE_S) for actor in kept.actors], timeout=LEAVE_S + ANSWER_S
            )
        except Exception as error:  # whatever is wrong with them, they are not used again
            log.info("A worker process is replaced: %s", error)
            return False
        if any(faults):
            log.info("A worker process is replaced: %s", next(filter(None, faults)))
            return False
        self._kept = kept
        return True


_slot = Slot()


def the_slot() -> Slot:
    """The slot of this process."""
    return _slot
