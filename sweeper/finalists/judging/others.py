"""Policies that are judged beside the trials of a sweep: checkpoints, bundles, trials of other sweeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sweeper.errors import UserError
from sweeper.finalists.judging.answers import Answers
from sweeper.finalists.judging.session import JudgedPolicy, Session, named_source
from sweeper.gpus import first_device
from sweeper.records.checkpoints import Source, find_source
from trainables import registry
from trainables.interface import ENVIRONMENT, EvaluatesPolicies, EvaluationContext, silent

__all__ = ["check_alike", "check_unchanged", "other_policies"]

BLOCK_B = 1 << 20
PICTURE = "VISUAL"
"""The type of a feature that is a picture."""


class Features(Protocol):
    """What an opened policy may tell of its observations and actions."""

    @property
    def action_dim(self) -> int: ...

    @property
    def inputs(self) -> Sequence[Any]:
        """Features, each with a `name`, a `type` and a `shape`."""
        ...


def other_policies(
    named: Sequence[str], folder: Path, sweeps: Path, trials: Sequence[JudgedPolicy]
) -> list[JudgedPolicy]:
    """Find policies that are not trials of the sweep; their letters are still empty.

    Args:
        named: What the user typed: ``SWEEP``, ``SWEEP:TRIAL``, a checkpoint, or a bundle.
        folder: The sweep's folder.
        sweeps: The folder that contains the sweeps.
        trials: The trials of the sweep that are judged, too.

    Raises:
        UserError: If one does not exist, cannot be read, is a trial of this sweep, or is named twice.
        BundleError: If a bundle is damaged, or newer than this version.
    """
    found: list[JudgedPolicy] = []
    known = {_digest(named_source(folder, one).checkpoint): f"trial {one.trial}" for one in trials}
    for name in named:
        policy = _policy(name, folder, sweeps)
        if policy.digest in known:
            raise UserError(
                f"--also {name}: it is the same policy as {known[policy.digest]}. Name each policy once."
            )
        known[policy.digest] = name
        found.append(policy)
    return found


def check_unchanged(session: Session, wanted: Sequence[JudgedPolicy]) -> None:
    """Refuse to continue a session with a policy that has changed since.

    Raises:
        UserError: If it has answers, and another policy is now where one of its policies was.
    """
    before = {one.source: one for one in session.policies if one.source}
    for one in wanted:
        old = before.get(one.source)
        if old is not None and old.digest != one.digest and Answers(session).history():
            raise UserError(
                f"--also {one.named}: the policy has changed since session {session.number} started, which "
                "has answers about the earlier one. Restore it to continue, or start another session: --new."
            )


def check_alike(
    folder: Path, policies: Sequence[JudgedPolicy], cache: Path, progress: Callable[[str], None] = silent
) -> None:
    """Check that policies act on the same robot: the same actions, from the same observations.

    Args:
        folder: The sweep's folder.
        policies: The policies; the first one is compared with each of the others.
        cache: Folder for what is shared on this machine.
        progress: Receives a message for each policy.

    Raises:
        UserError: If they differ, or one cannot be evaluated; all differences are reported.
        TrainableError: If a checkpoint cannot be used.
    """
    known: list[tuple[str, Features]] = []
    for policy in policies:
        progress(f"opening {policy.words}")
        features = _features(named_source(folder, policy), policy.words, cache)
        if features is not None:  # policies of other trainables need not tell
            known.append((policy.words, features))
    faults = [fault for words, features in known[1:] for fault in _differences(words, features, known[0])]
    if faults:
        raise UserError(
            "Policies that are judged together must act on the same robot. "
            + "".join(f"\n{fault}" for fault in faults)
        )


def _policy(name: str, folder: Path, sweeps: Path) -> JudgedPolicy:
    source = find_source(name, sweeps, None)
    if source.folder is not None:
        of = source.folder.parent.parent
        if of.resolve() == folder.resolve():
            raise UserError(
                f"--also {name}: this is trial {source.trial} of the sweep itself. "
                f"Use --trial {source.trial}."
            )
        where, shown = f"{of.absolute()}:{source.trial}", f"{source.sweep}:{source.trial}"
    else:
        where, shown = str(source.checkpoint.absolute()), f"./{name}" if name.isdigit() else name
    step = int(source.checkpoint.name) if source.checkpoint.name.isdigit() else 0
    digest = _digest(source.checkpoint)
    return JudgedPolicy("", None, step, dict(source.setting), shown, where, digest)


def _digest(place: Path) -> str:
    """Identify the content of a checkpoint, without hidden files and texts that are read by people."""
    digest = hashlib.sha256()
    try:
        for name, file in [("", place)] if place.is_file() else _files(place):
            digest.update(f"{name} {file.stat().st_size}\n".encode())
            with file.open("rb") as content:
                while block := content.read(BLOCK_B):
                    digest.update(block)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_file() and file.suffix != ".md" and not any(part.startswith(".") for part in name.parts):
            yield name.as_posix(), file


def _features(source: Source, words: str, cache: Path) -> Features | None:
    trainable = registry.load(source.trainable)
    if not isinstance(trainable, EvaluatesPolicies):
        raise UserError(f"{words}: the trainable {source.trainable} cannot evaluate trained policies.")
    # A robot's machine need not have the simulator of the training.
    config = {ENVIRONMENT: None} if ENVIRONMENT in trainable.fields else {}
    opened = trainable.open_policy(
        source.checkpoint.absolute(), config, EvaluationContext(cache, first_device())
    )
    found: Features | None = getattr(opened, "features", None)
    return found


def _differences(words: str, own: Features, first: tuple[str, Features]) -> Iterator[str]:
    other, wanted = first
    if own.action_dim != wanted.action_dim:
        yield f"{words}: an action has {own.action_dim} numbers; that of {other} has {wanted.action_dim}."
    mine, theirs = _inputs(own), _inputs(wanted)
    if mine.keys() != theirs.keys():
        yield f"{words} sees {', '.join(sorted(mine))}; {other} sees {', '.join(sorted(theirs))}."
    for name in sorted(mine.keys() & theirs.keys()):
        if mine[name] != theirs[name]:
            yield f"{words}: {name} has the shape {mine[name]}; {other} has {theirs[name]}."


def _inputs(features: Features) -> Mapping[str, tuple[int, ...]]:
    """The shape of each observation; pictures are resized, so that only their channels must be equal."""
    return {one.name: one.shape[:1] if one.type == PICTURE else one.shape for one in features.inputs}
