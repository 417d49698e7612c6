"""How chunks of actions are requested and executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["LATE", "MODES", "ControlSettings", "Late", "Mode"]

Mode = Literal["sync", "async", "ensemble", "rtc"]
Late = Literal["repeat", "hold", "slow"]
MODES: tuple[Mode, ...] = get_args(Mode)
LATE: tuple[Late, ...] = get_args(Late)


@dataclass(frozen=True)
class ControlSettings:
    """How chunks of actions are requested and executed.

    Attributes:
        mode: ``sync``: the robot waits for each chunk, then executes it from its first action. ``async``: the
            next chunk is predicted while the last one is executed, and actions whose time has passed are
            dropped. ``ensemble``: a chunk is predicted as often as possible, and the actions that all chunks
            have for a moment are averaged, older ones with more weight (temporal ensembling; Zhao et al.,
            "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware", arXiv 2304.13705). ``rtc``:
            as ``async``, and the next chunk continues what will have been executed when it arrives (real-time
            chunking; Black et al., "Real-Time Execution of Action Chunking Flow Policies", arXiv 2506.07339).
        replan: Share of the executed actions that is left when the next chunk is requested, from 0 (none is
            left) to 1 (as soon as the last one has arrived). ``sync`` requests it when none is left,
            ``ensemble`` as soon as possible.
        late: What is executed if a chunk ends before the next one arrives. ``repeat``: the last action again,
            at which a position-controlled arm rests. ``hold``: the action that the caller names for this.
            ``slow``: the remaining actions are stretched over the time until the next chunk is expected.
        decay: How much less weight each newer chunk has in ``ensemble``: exp(-decay) times that of the one
            before it.
        samples: Chunks that are drawn for each prediction; the one nearest to what the last chunk had planned
            is executed (backward coherence of bidirectional decoding; Liu et al., arXiv 2408.17355).

    Raises:
        ValueError: If a value is not possible.
    """

    mode: Mode = "sync"
    replan: float = 0.5
    late: Late = "repeat"
    decay: float = 0.01
    samples: int = 1

    def __post_init__(self) -> None:
        for name, value, allowed in (("mode", self.mode, MODES), ("late", self.late, LATE)):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; use one of {', '.join(allowed)}")
        if not 0 <= self.replan <= 1:
            raise ValueError(f"replan is {self.replan}; use a share from 0 to 1")
        if self.decay < 0:
            raise ValueError(f"decay is {self.decay}; use 0 or more")
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}; use 1 or more")
        if self.mode == "sync" and self.late == "slow":
            raise ValueError(
                "late: slow needs chunks that are predicted ahead; with mode sync use repeat or hold"
            )
