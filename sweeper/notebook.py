"""Sweeps in Python, for notebooks and scripts: a thin layer over the functions behind the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.certainty.standing import standing_of
from sweeper.commands.options import open_console
from sweeper.commands.sweeps import run_to_end
from sweeper.errors import INTERRUPTED, SweeperError, UserError
from sweeper.finalists.candidates import find_candidate
from sweeper.gpus import first_device
from sweeper.layout import SWEEPS
from sweeper.machines.machine import usable_cache
from sweeper.records.sweep_state import SweepState, find_sweep, read_sweep
from sweeper.records.trial_state import TrialState
from sweeper.spec.space_file.load import load_spec
from sweeper.terminal.as_json import to_rows
from trainables import registry
from trainables.interface import ENVIRONMENT, EvaluatesPolicies, EvaluationContext, GivesPolicies

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Sweep", "launch", "load"]


class Sweep:
    """A sweep on disk. Everything is read when it is asked for, also while the sweep runs.

    Attributes:
        folder: The sweep's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __repr__(self) -> str:
        state = self.state()
        return f"<Sweep {state.name}: {state.state}, {len(state.trials)} trials>"

    def state(self) -> SweepState:
        """All that the journal says about the sweep."""
        return read_sweep(self.folder)

    def trials(self) -> pd.DataFrame:
        """The trials as a table, best first, with the columns of `sweeper results --csv`.

        The index is the number of the trial.
        """
        import pandas as pd

        state = self.state()
        columns, rows = to_rows(state, standing_of(state, state.ranking()))
        return pd.DataFrame(rows, columns=columns).set_index("trial")

    def best(self) -> TrialState:
        """The confirmed winner; without a confirmation the best of the ranking.

        Raises:
            UserError: If no trial has completed.
        """
        state = self.state()
        found = state.confirmed_trial() or state.best_trial()
        if found is None:
            raise UserError(f"{state.name}: no trial has completed.")
        return found

    def policy(self, trial: int | None = None, device: str | None = None) -> Any:
        """A trained policy with its inference setting, ready for `trainables.deployment.Controller`.

        Args:
            trial: Its number; None: the confirmed winner, else the best of the ranking.
            device: ``cpu`` or ``cuda:0``; None: the first GPU if there is one.

        Raises:
            UserError: If there is no such trial, it has no checkpoint, or its trainable gives no policies.
            TrainableError: If the checkpoint cannot be read.
        """
        number = self.best().number if trial is None else trial
        found = find_candidate(f"{self.folder}:{number}", self.folder.parent)
        trainable = registry.load(found.trainable)
        assert isinstance(trainable, EvaluatesPolicies)  # else no candidate is found
        place = device or first_device()
        # Without the simulator of the training, which need not be installed here.
        config = {ENVIRONMENT: None} if ENVIRONMENT in trainable.fields else {}
        opened = trainable.open_policy(found.checkpoint, config, EvaluationContext(usable_cache(), place))
        if not isinstance(opened, GivesPolicies):
            raise UserError(
                f"{self.folder.name}:{number}: the trainable {found.trainable} gives no policy to Python. "
                "What it opens must have policy (trainables.interface.GivesPolicies)."
            )
        return opened.policy(self.state().trial(number).setting)


def load(name: str | Path, sweeps: Path | str = SWEEPS) -> Sweep:
    """A sweep by its name or folder.

    Args:
        name: As the commands take it.
        sweeps: The folder that contains the sweeps.

    Raises:
        UserError: If there is none.
    """
    return Sweep(find_sweep(str(name), Path(sweeps)))


def launch(
    space: str | Path,
    changes: Sequence[str] | Mapping[str, Any] = (),
    *,
    address: str | None = None,
    sweeps: Path | str = SWEEPS,
) -> Sweep:
    """Run a sweep to its end, or continue it, as `sweeper launch` does, and confirm it if the space asks so.

    Args:
        space: A space file, or the name of a space that comes with the package.
        changes: Changes as on the command line: ``["budget.trials=4"]`` or ``{"budget.trials": 4}``.
        address: Ray cluster; None for RAY_ADDRESS, or a Ray of our own on this machine.
        sweeps: The folder that contains the sweeps.

    Raises:
        SpecError: If the space has faults.
        UserError: If something else that was given is wrong.
        SweeperError: If the sweep fails.
        KeyboardInterrupt: If it was interrupted; the same call continues it.
    """
    typed = [*map("=".join, _typed(changes))] if isinstance(changes, Mapping) else list(changes)
    spec = load_spec(space, typed, sweeps)
    code = run_to_end(spec, address, open_console())
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    sweep = Sweep(spec.folder)
    if code != 0:
        raise SweeperError(f"{spec.name} failed: {sweep.state().message}")
    return sweep


def _typed(changes: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each key with its value as it is typed on the command line."""
    for key, value in changes.items():
        yield key, value if isinstance(value, str) else json.dumps(value)
