"""What a sweep takes from earlier sweeps (``search.from``), as plain types. Standard library only.

`sweeper.records.earlier` selects it when the sweep is launched, and keeps it in the sweep's folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sweeper.text import counted

__all__ = ["Source", "Taken", "TakenTrial"]


@dataclass(frozen=True)
class TakenTrial:
    """A trial of an earlier sweep as a point of this sweep's space.

    Attributes:
        sweep: The name of the earlier sweep.
        number: Its number there.
        values: The values of the parameters that exist at this point.
        objectives: Its objective values, in the order of this sweep's objectives. Empty if they are not used.
        stopped_at: The step at which it was stopped early; None if it completed.
    """

    sweep: str
    number: int
    values: Mapping[str, Any]
    objectives: tuple[float, ...] = ()
    stopped_at: int | None = None

    def __str__(self) -> str:
        return f"trial {self.number} of {self.sweep}"

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> TakenTrial:
        """The trial whose fields these are."""
        return TakenTrial(**{**plain, "objectives": tuple(plain["objectives"])})


@dataclass(frozen=True)
class Source:
    """An earlier sweep, and what is taken from it.

    Attributes:
        named: The sweep as ``search.from`` names it.
        name: Its name.
        sweep_id: Distinguishes it from others of the same name.
        ended: Its trials that could be taken: those with a result.
        fitting: Those of them that are points of this sweep's space.
        taken: Those of them that are taken.
        differs: Why its values cannot be compared with those of this sweep. If there is no reason, the
            sampler learns from them; otherwise its best configurations are tried first.
        left_out: How many trials do not fit, by the reason.
    """

    named: str
    name: str
    sweep_id: str
    ended: int
    fitting: int
    taken: int
    differs: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What is taken from it, in a sentence."""
        if self.differs:
            which = {0: "none", 1: "the best"}.get(self.taken, f"the best {self.taken}")
            found = f"{self.name}: {which} of {counted(self.fitting, 'trial')} tried first, "
            found += f"values not used ({'; '.join(self.differs)})"
        else:
            found = f"{self.name}: the sampler learns from {counted(self.taken, 'trial')}"
        if not self.left_out:
            return found
        reasons = ", ".join(f"{count} × {reason}" for reason, count in self.left_out.items())
        return f"{found}; left out: {reasons}"

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Source:
        """The source whose fields these are."""
        return Source(**{**plain, "differs": tuple(plain["differs"])})


@dataclass(frozen=True)
class Taken:
    """What a sweep takes from earlier ones.

    Attributes:
        sources: The earlier sweeps, in the order of ``search.from``.
        known: Trials from which the sampler learns.
        first: Configurations that are tried before those that the sampler suggests.
    """

    sources: tuple[Source, ...] = ()
    known: tuple[TakenTrial, ...] = ()
    first: tuple[TakenTrial, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types; `from_dict` reads it back equal."""
        return {
            name: [dataclasses.asdict(one) for one in getattr(self, name)]
            for name in ("sources", "known", "first")
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Taken:
        """What `to_dict` wrote.

        Raises:
            KeyError: If something is missing.
            TypeError: If it has another form.
        """
        return Taken(
            sources=tuple(map(Source.from_dict, plain["sources"])),
            known=tuple(map(TakenTrial.from_dict, plain["known"])),
            first=tuple(map(TakenTrial.from_dict, plain["first"])),
        )
