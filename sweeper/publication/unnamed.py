"""A folder for a comparison on another machine: policies without their trials' names, and a sheet.

The bundles contain no report, no figures and no name of a trial. A policy's configuration is in its bundle,
because the policy cannot be loaded without it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from sweeper.errors import UserError
from sweeper.layout import write_whole
from sweeper.publication.facts import versions
from sweeper.publication.publish import Bundled, lerobot_folder
from sweeper.records.checkpoints import Source
from trainables import registry
from trainables.deployment.bundle import Contents, write_bundle
from trainables.interface import BundlesPolicies, silent

__all__ = ["README", "SHEET", "write_unnamed_policies"]

SHEET, README = "sheet.csv", "README.md"


def write_unnamed_policies(
    policies: Mapping[str, Source],
    sheet: str,
    sweep: str,
    folder: Path,
    progress: Callable[[str], None] = silent,
) -> list[Bundled]:
    """Write a folder with a bundle of each policy, the sheet to fill in, and what to do with them.

    Args:
        policies: The policies by their neutral names, with their inference settings.
        sheet: The text of the sheet.
        sweep: Name of the sweep, which the command that takes the sheet back needs.
        folder: The folder to create. It appears when it is complete.
        progress: Receives a message for each policy.

    Returns:
        The bundles.

    Raises:
        UserError: If the folder is in use or cannot be written, or a trainable has no bundles.
        TrainableError: If a checkpoint cannot be found, or a bundle cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"{folder} exists. It may contain outcomes that were not recorded yet: --record them first. "
            "Then name a new folder, or delete this one."
        )
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.writing")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir(parents=True)
        made = []
        for name, source in policies.items():
            progress(f"packing policy {name}")
            made.append(_write_bundle(source, name, beside / f"policy-{name}.zip"))
        write_whole(beside / SHEET, sheet)
        write_whole(beside / README, _readme(list(policies), sweep))
        beside.replace(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return [replace(one, file=str(folder / Path(one.file).name)) for one in made]


def _write_bundle(source: Source, name: str, file: Path) -> Bundled:
    trainable = registry.load(source.trainable)
    if not isinstance(trainable, BundlesPolicies):
        raise UserError(
            f"{source.trainable}: this trainable has no bundles. Serve its policies from this machine: "
            "leave --bundles out."
        )
    missing = {"report": "It names the trials."}
    with tempfile.TemporaryDirectory(prefix="sweeper-bundle-") as temporary:
        # No progress: it would show which checkpoint is read.
        lerobot = lerobot_folder(source, Path(temporary) / "lerobot", None, missing)
        contents = Contents(
            trainable=source.trainable,
            policy=trainable.policy_files(source.checkpoint),
            setting=source.setting,
            lerobot=None if lerobot is None else Path(lerobot.folder),
            target="" if lerobot is None else lerobot.target,
            card=_card(name, file.name),
            versions=versions(),
            missing=missing,
        )
        digest = write_bundle(file, contents)
    return Bundled(str(file), digest, file.stat().st_size, missing)


def _card(name: str, file: str) -> str:
    return (
        f"# Policy {name}\n\n"
        "One of several policies that a person compares on a real robot. Do not look into the other files: "
        "they contain the configuration, and the comparison is blind.\n\n"
        f"```sh\nsweeper serve {file} --name {name}\n```\n"
    )


def _readme(names: list[str], sweep: str) -> str:
    served = "\n".join(
        f"sweeper serve policy-{name}.zip --name {name} --port {8000 + place}"
        for place, name in enumerate(names)
    )
    back = f"sweeper judge {shlex.quote(sweep)} --record {SHEET}"
    return (
        f"# Policies {', '.join(names)}, to be compared on the real robot\n\n"
        "Do not look into the bundles: they contain the configuration of their policies.\n\n"
        "1. Copy this folder to the robot's computer, and serve each policy there "
        '(`pip install "diffusion-policy-sweeper[serve]"`), or use the folder `lerobot/` in its bundle.\n\n'
        f"```sh\n{served}\n```\n\n"
        f"2. Follow {SHEET} from the first row to the last. All rows of a *start* are for the same scene: "
        "reset it between them. Write the outcome of each episode into its row:\n\n"
        "| outcome | meaning |\n|---|---|\n"
        "| `success`, or `s` | the task is done |\n"
        "| `failure`, or `f` | it is not; say in the column `tag` in a few words what went wrong |\n"
        "| a number from 0 to 1 | a part of the task is done |\n"
        "| `void`, or `v` | something else went wrong: repeat the episode in a copy of its row |\n\n"
        f"3. Bring {SHEET} back to the sweep and record it. Rows without an outcome stay open. Record the "
        "sheet as often as you want: only what is new is added, and a changed outcome is a correction.\n\n"
        f"```sh\n{back}\n```\n"
    )
