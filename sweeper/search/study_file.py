"""``study.db``: the trials of a sweep and their results, as an Optuna study in a file.

The file decides which trials exist and what their results are. One process has it open, the driver; a lock
ensures that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from sweeper.errors import StudyBusyError, UserError
from sweeper.layout import LOCK, STUDY
from sweeper.spec.sweep import Objective

__all__ = ["StudyFile"]

STUDY_NAME = "sweep"
"""Name of the study in the file."""
BUSY_TIMEOUT_S = 5
"""How long one attempt to write waits for another process that has locked the file."""


class StudyFile:
    """The study in a sweep's folder, opened and locked; created if there is none.

    Args:
        folder: The sweep's folder.
        objectives: The objectives of the search. A study keeps those that it was created with.
        choices: The values of each categorical parameter, as Optuna stores them. A study keeps them too.

    Attributes:
        path: The file.

    Raises:
        UserError: If the study has other objectives or choices, or if another process has it open.
        StudyBusyError: If the file cannot be read or written. Every method can raise it, and can be called
            again then.
    """

    def __init__(
        self, folder: Path, objectives: Sequence[Objective], choices: Mapping[str, Sequence[Any]]
    ) -> None:
        self.path = folder / STUDY
        self._trial_ids: dict[int, int] = {}
        self._storage: optuna.storages.RDBStorage | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / LOCK)
        self._acquire_lock()
        try:
            self._open(objectives, choices)
        except BaseException:
            self.close()
            raise

    def _acquire_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{self.path.parent}: another process is running this sweep. "
                "Wait for it or stop it; `sweeper status` shows what it does."
            ) from None

    def _open(self, objectives: Sequence[Objective], choices: Mapping[str, Sequence[Any]]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._storage_errors():
            self._storage = optuna.storages.RDBStorage(
                f"sqlite:///{self.path.absolute()}",
                engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT_S}},
            )
            study = optuna.create_study(
                study_name=STUDY_NAME,
                storage=self._storage,
                directions=[objective.goal for objective in objectives],
                load_if_exists=True,
            )
            self._study_id = self._storage.get_study_id_from_name(STUDY_NAME)
            self._check_same_search(study, objectives, choices)

    def _check_same_search(
        self, study: optuna.Study, objectives: Sequence[Objective], choices: Mapping[str, Sequence[Any]]
    ) -> None:
        now: dict[str, Any] = {
            "objectives": [[objective.name, objective.goal] for objective in objectives],
            "choices": dict(choices),
        }
        before = study.user_attrs.get("search")
        if before is None:
            study.set_user_attr("search", now)
            return
        remedy = "Give the sweep another name, or restore the former value."
        if before["objectives"] != now["objectives"]:
            was = ", ".join(f"{goal} {name}" for name, goal in before["objectives"])
            raise UserError(f"{self.path}: this study has another objective: {was}. {remedy}")
        for name, values in choices.items():
            if name in before["choices"] and before["choices"][name] != values:
                raise UserError(
                    f"{self.path}: {name} had the values {before['choices'][name]} when this study was "
                    f"created, and a study cannot change them. {remedy}"
                )

    @property
    def _opened(self) -> optuna.storages.RDBStorage:
        if self._storage is None:
            raise RuntimeError(f"{self.path} is closed")
        return self._storage

    def trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials by number, all or those in one of ``states``."""
        with self._storage_errors():
            return self._opened.get_all_trials(
                self._study_id, deepcopy=False, states=None if states is None else tuple(states)
            )

    def add(self, trial: FrozenTrial) -> int:
        """Add a trial, and return its number: 0, 1, 2 and so on without gaps."""
        with self._storage_errors():
            trial_id = self._opened.create_new_trial(self._study_id, template_trial=trial)
            number = self._opened.get_trial_number_from_id(trial_id)
        self._trial_ids[number] = trial_id
        return number

    def report(self, number: int, step: int, value: float) -> None:
        """Add the objective's value at a step of a running trial."""
        with self._storage_errors():
            self._opened.set_trial_intermediate_value(self._trial_id(number), step, value)

    def annotate(self, number: int, notes: Mapping[str, Any]) -> None:
        """Add user attributes to a running trial."""
        with self._storage_errors():
            for name, value in notes.items():
                self._opened.set_trial_user_attr(self._trial_id(number), name, value)

    def end(self, number: int, state: TrialState, values: Sequence[float] | None) -> None:
        """End a running trial."""
        with self._storage_errors():
            self._opened.set_trial_state_values(self._trial_id(number), state, values)
        del self._trial_ids[number]

    def _trial_id(self, number: int) -> int:
        if number not in self._trial_ids:
            self._trial_ids[number] = self._opened.get_trial_id_from_study_id_trial_number(
                self._study_id, number
            )
        return self._trial_ids[number]

    def close(self) -> None:
        """Close the file and release the lock; can be called twice."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()
            self._storage = None
        self._lock.release()

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = error.__cause__ or error
            raise StudyBusyError(
                f"{self.path}: the study cannot be read or written: {str(cause).splitlines()[0]}. "
                "Check whether the disk is full, or the file is on a network drive without locks."
            ) from error
