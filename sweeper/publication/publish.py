"""Write what leaves this machine with a policy: the export, its model card, the bundle, the upload."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.layout import JOURNAL, REPORT, write_whole
from sweeper.machines.machine import usable_cache
from sweeper.publication.facts import facts_of, versions
from sweeper.publication.hub import Pushed, check_repo, push, would_push
from sweeper.records.checkpoints import Exported, Source, export
from sweeper.report.remake import remake_report
from trainables import registry
from trainables.deployment.bundle import (
    CARD,
    Contents,
    check_place,
    is_bundle,
    open_bundle,
    write_bundle,
)
from trainables.deployment.card import PolicyFacts, model_card
from trainables.interface import BundlesPolicies, ExportsCheckpoints, TrainableError, silent

__all__ = ["Bundled", "Published", "Wanted", "lerobot_folder", "publish"]

USE_EMA = "policy.use_ema"
PUSHT = "gym_pusht/"


@dataclass(frozen=True)
class Wanted:
    """What is to be written of a policy.

    Attributes:
        to: Folder of the export; None for none, or for a temporary one if it is only uploaded.
        bundle: The bundle, or None.
        push: The model on the hub, or None.
        target: The version of LeRobot; None: the default.
        card: Write a model card into the folder.
        private: Create a private model.
        dry_run: Show what would be uploaded.
        ema: Use averaged weights if there are any.
        force: Replace an earlier export or bundle.
    """

    to: Path | None
    bundle: Path | None = None
    push: str | None = None
    target: str | None = None
    card: bool = False
    private: bool = False
    dry_run: bool = False
    ema: bool = True
    force: bool = False

    def check(self) -> None:
        """Check what does not depend on the policy.

        Raises:
            UserError: If nothing is to be written, an option needs another one, or an upload is impossible.
        """
        if self.to is None and self.bundle is None and self.push is None:
            raise UserError("Name what to write: --to DIR, --bundle FILE.zip, or --push OWNER/NAME.")
        if self.card and self.to is None and self.push is None:
            raise UserError("--card: the model card is written into the export. Name its folder: --to DIR.")
        for option, given in (("--private", self.private), ("--dry-run", self.dry_run)):
            if given and self.push is None:
                raise UserError(f"{option} belongs to an upload. Name the model: --push OWNER/NAME.")
        if self.push is not None:
            check_repo(self.push, dry_run=self.dry_run)


@dataclass(frozen=True)
class Bundled:
    """A bundle that was written.

    Attributes:
        file: The bundle.
        sha256: Its SHA-256, to compare copies with.
        bytes: Its size.
        missing: Parts that are not in it, and why.
    """

    file: str
    sha256: str
    bytes: int
    missing: dict[str, str]


@dataclass(frozen=True)
class Published:
    """What was written of a policy.

    Attributes:
        source: The policy.
        made: The export; None if there is none. Its folder is gone if only the upload was asked for.
        card: The model card in its folder, or None.
        bundled: The bundle, or None.
        pushed: The upload, or None.
        kept: Whether the folder of the export was kept.
    """

    source: Source
    made: Exported | None = None
    card: Path | None = None
    bundled: Bundled | None = None
    pushed: Pushed | None = None
    kept: bool = True

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        source = self.source
        values: dict[str, Any] = {
            "sweep": source.sweep,
            "trial": source.trial,
            "checkpoint": str(source.checkpoint),
            "chosen": source.chosen,
            "folder": None,
            "target": None,
            "notes": [],
        }
        if self.made is not None:
            values |= asdict(self.made) | ({} if self.kept else {"folder": None})
        return values | {
            "card": None if self.card is None or not self.kept else str(self.card),
            "bundle": None if self.bundled is None else asdict(self.bundled),
            "pushed": None if self.pushed is None else asdict(self.pushed),
        }


def publish(source: Source, wanted: Wanted, progress: Callable[[str], None] = silent) -> Published:
    """Export a policy, write its model card, pack it, upload it: whatever is wanted.

    Args:
        source: The policy.
        wanted: What to write; checked with :meth:`Wanted.check`.
        progress: Receives a message for each step.

    Raises:
        UserError: If the trainable cannot do it, or the hub refuses.
        TrainableError: If the checkpoint cannot be read, or not be expressed.
        SweeperError: If the hub cannot be reached.
    """
    if wanted.bundle is not None:
        _check_bundle(source, wanted.bundle, replace=wanted.force)
    facts = None
    if wanted.card or wanted.push is not None or wanted.bundle is not None:
        source = _with_weights(source, ema=wanted.ema)
        facts = facts_of(source, usable_cache(), progress)
    done = Published(source)
    with contextlib.ExitStack() as opened:
        folder = wanted.to
        if folder is None and wanted.push is not None:
            temporary = opened.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-export-"))
            folder = Path(temporary) / wanted.push.rpartition("/")[2]
        if folder is not None:
            made = export(
                source, folder, wanted.target, ema=wanted.ema, replace=wanted.force, progress=progress
            )
            done = replace(done, made=made, kept=wanted.to is not None)
            if facts is not None and (wanted.card or wanted.push is not None):
                done = replace(done, card=_write_card(made, facts, wanted.push or ""))
        if wanted.bundle is not None and facts is not None:
            done = replace(done, bundled=_bundle(source, wanted.bundle, facts, wanted, progress))
        if wanted.push is not None and folder is not None:
            if wanted.dry_run:
                pushed = would_push(folder, wanted.push, private=wanted.private)
            else:
                title = f"Export {facts.name}" if facts is not None else "Export a policy"
                pushed = push(folder, wanted.push, private=wanted.private, message=title, progress=progress)
            done = replace(done, pushed=pushed)
    return done


def _with_weights(source: Source, *, ema: bool) -> Source:
    """Make weights that are not averaged a part of the setting: figures of the averages are not theirs."""
    if ema or USE_EMA not in registry.load(source.trainable).fields:
        return source
    return replace(source, setting={**source.setting, USE_EMA: False})


def _write_card(made: Exported, facts: PolicyFacts, repo: str = "") -> Path:
    """Write the model card into the folder of an export.

    Args:
        made: The export.
        facts: What is known of the policy.
        repo: Its name on the hub, if it will be there.
    """
    named = repo or Path(made.folder).name
    card = Path(made.folder) / CARD
    use = _lerobot_commands(named, facts)
    write_whole(card, model_card(facts, target=made.target, notes=made.notes, use=use))
    return card


def _lerobot_commands(named: str, facts: PolicyFacts) -> list[str]:
    path = shlex.quote(named)
    commands = []
    if facts.environment.startswith(PUSHT):
        commands += [
            "# in LeRobot",
            f"lerobot-eval --policy.path={path} --env.type=pusht --policy.device=cuda",
        ]
    else:
        commands += ["# in LeRobot, on a robot", f"lerobot-record --policy.path={path} ..."]
    return [*commands, "# in this project: errors, latency and pictures", f"sweeper eval {path}"]


def _check_bundle(source: Source, file: Path, *, replace: bool) -> None:
    """Check that a bundle can be written, before anything is computed for it.

    Raises:
        UserError: If the trainable has no bundles.
        BundleError: If the file cannot be written.
    """
    if not isinstance(registry.load(source.trainable), BundlesPolicies):
        raise UserError(
            f"{source.trainable}: this trainable has no bundles. It must have policy_files "
            "(trainables.interface.BundlesPolicies)."
        )
    check_place(file, replace=replace)


def _bundle(
    source: Source, file: Path, facts: PolicyFacts, wanted: Wanted, progress: Callable[[str], None]
) -> Bundled:
    """Pack a policy with everything that is needed to use it on another machine."""
    trainable = registry.load(source.trainable)
    assert isinstance(trainable, BundlesPolicies)
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="sweeper-bundle-") as temporary:
        lerobot = lerobot_folder(
            source, Path(temporary) / "lerobot", wanted.target, missing, progress, ema=wanted.ema
        )
        report = _report(source, missing, progress)
        progress(f"writing {file}")
        named = shlex.quote(file.name)
        use = [f"sweeper eval {named}", f"sweeper export {named} --to DIR"]
        contents = Contents(
            trainable=source.trainable,
            policy=trainable.policy_files(source.checkpoint),
            setting=source.setting,
            lerobot=None if lerobot is None else Path(lerobot.folder),
            target="" if lerobot is None else lerobot.target,
            report=report,
            card=model_card(facts, use=use),
            facts=facts.to_json(),
            versions=versions(),
            missing=missing,
        )
        digest = write_bundle(file, contents, replace=wanted.force)
    return Bundled(str(file), digest, file.stat().st_size, missing)


def lerobot_folder(
    source: Source,
    folder: Path,
    target: str | None,
    missing: dict[str, str],
    progress: Callable[[str], None] = silent,
    *,
    ema: bool = True,
) -> Exported | None:
    """Export a policy in LeRobot's format as a part of a bundle.

    Args:
        source: The policy.
        folder: The folder to create.
        target: The version of LeRobot; None: the default.
        missing: Receives the reason if the policy cannot be expressed.
        progress: Receives a message for each step.
        ema: Use averaged weights if there are any.

    Returns:
        The export; None if the policy cannot be expressed.
    """
    if not isinstance(registry.load(source.trainable), ExportsCheckpoints):
        missing["lerobot"] = f"{source.trainable}: this trainable does not export checkpoints."
        return None
    try:
        return export(source, folder, target, ema=ema, progress=progress)
    except TrainableError as error:
        missing["lerobot"] = str(error)
        return None


def _report(source: Source, missing: dict[str, str], progress: Callable[[str], None]) -> Path | None:
    """The report of the sweep, made again if the journal is newer."""
    if is_bundle(source.checkpoint):
        packed = open_bundle(source.checkpoint)
        if packed.report is not None:
            return packed.report
    if source.folder is None:
        missing["report"] = "The checkpoint was named by its path, so no sweep is known."
        return None
    folder = source.folder.parents[1]
    report = folder / REPORT
    if not report.exists() or report.stat().st_mtime < (folder / JOURNAL).stat().st_mtime:
        progress("writing the report of the sweep")
        _, fault = remake_report(folder)
        if not report.exists():
            missing["report"] = fault or "Reports are switched off (SWEEPER_REPORT)."
            return None
    return report
