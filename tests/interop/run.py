"""Compare this project with LeRobot itself: ``python -m tests.interop.run --lerobot VERSION [PART ...]``.

Needs the environment that ``tests/interop/make_environment.sh VERSION`` makes. Takes minutes on one core.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

# One thread on both sides: the numbers are the same whatever the machine.
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from rich.console import Console

from tests.interop import materials
from tests.interop.checks import Checks
from tests.interop.evaluation import compare_evaluation
from tests.interop.exports import (
    compare_averages,
    compare_export,
    compare_train_settings,
    with_settings,
)
from tests.interop.imports import (
    TINY,
    compare_finetuning,
    compare_finetuning_there,
    compare_import,
    train_there,
)
from tests.interop.lerobot_process import LeRobot
from tests.interop.lerobot_side import PACKAGES
from tests.interop.releases import FOLDER, RELEASES, ROOT, Release
from tests.interop.written import compare_dataset
from trainables.diffusion_policy import lerobot as checkpoints
from trainables.diffusion_policy.lerobot.write import TRAIN_SETTINGS
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import STATE
from trainables.pusht import ensure_dataset

PUSHT_EPISODES = 12
WIDTH = 120


class Comparison:
    """The parts of the comparison, and what they share.

    Args:
        release: The version of LeRobot.
        folder: Folder for everything that is made.
        cache: Decoded frames and the built-in dataset; kept from run to run.
        console: Receives each result.
    """

    def __init__(self, release: Release, folder: Path, cache: Path, console: Console) -> None:
        self.release = release
        self.folder = folder
        self.cache = cache
        self.checks = Checks(console)
        self.lerobot = LeRobot(folder / "lerobot", release)

    def keypoints(self) -> Path:
        """Push-T without pictures."""
        root = self.folder / "pusht_keypoints"
        return materials.copy_pusht(self.cache, root, materials.KEYPOINTS, PUSHT_EPISODES)

    def pictures(self) -> Path:
        """Push-T with its camera."""
        root = self.folder / "pusht_pictures"
        return materials.copy_pusht(self.cache, root, materials.PICTURES, PUSHT_EPISODES)

    def varied(self) -> Path:
        """The dataset that has what is rare."""
        return materials.write_varied(self.folder / "varied")

    @cached_property
    def sweep(self) -> Path:
        """The folder of a sweep of one trial on Push-T's keypoints, run by ``sweeper launch``."""
        sweeps = self.folder / "sweeps"
        if not (sweeps / "interop").exists():
            space = str(ROOT / "search_spaces/pusht_quick.yaml")
            sweeper("launch", space, *materials.SWEEP, "--sweeps", str(sweeps))
        return sweeps / "interop"

    @property
    def trial_folder(self) -> Path:
        """The folder of its trial."""
        return self.sweep / "trials" / "0"

    @cached_property
    def trial(self) -> DiffusionPolicy:
        """The policy of that trial: averaged weights, its own settings."""
        return checkpoints.load(self.trial_folder)

    @cached_property
    def trial_loss(self) -> float:
        """The last loss that the trial reported."""
        lines = (self.trial_folder / "reports.jsonl").read_text().splitlines()
        losses = [json.loads(line).get("train/loss") for line in lines]
        return float([loss for loss in losses if loss is not None][-1])

    @cached_property
    def exported_trial(self) -> Path:
        """The same, as ``sweeper export`` wrote it."""
        folder = self.folder / "exported_trial"
        if not folder.exists():
            sweeper("export", str(self.sweep), "--to", str(folder), "--target", self.release.target)
        return folder

    @cached_property
    def camera_policy(self) -> DiffusionPolicy:
        """A policy that sees Push-T's camera; trained for some steps, so that EMA and weights differ."""
        return self._trained("camera", {"policy.crop_shape": [84, 84]})

    def datasets(self) -> None:
        """A dataset of our writer, opened in LeRobot."""
        self.checks.begin("datasets of our writer, in LeRobot")
        for name, root in (("Push-T", self.pictures()), ("varied", self.varied())):
            compare_dataset(self.checks, self.lerobot, root, name)

    def exports(self) -> None:
        """Our policies, exported, in LeRobot."""
        folder = self.exported_trial
        self._export("keypoints, DDIM, a trial of a sweep", self.trial, self.keypoints(), folder)
        compare_averages(self.checks, self.trial_folder, folder)
        if (folder / TRAIN_SETTINGS).exists():
            compare_train_settings(self.checks, self.lerobot, folder)
        ddpm = with_settings(self.trial, sampler="DDPM", num_inference_steps=None)
        self._export("keypoints, DDPM", ddpm, self.keypoints())
        self._export("camera, DDPM, crop", self.camera_policy, self.pictures())
        ddim = with_settings(self.camera_policy, sampler="DDIM", num_inference_steps=10)
        self._export("camera, DDIM, crop", ddim, self.pictures())
        resized = {"policy.resize_shape": [72, 72], "policy.crop_ratio": 0.9}
        self._export("camera, resized and cropped", self._trained("resized", resized), self.pictures())
        for mode in ("MIN_MAX", "MEAN_STD", "QUANTILES"):
            normalization = {"policy.normalization_state": mode, "policy.normalization_action": mode}
            policy = self._trained(f"varied_{mode}", {**materials.VARIED, **normalization}, self.varied())
            moved = {STATE: materials.CONSTANT_STATE}
            name = f"two cameras, constant dimensions, {mode}"
            self._export(name, policy, self.varied(), moved=moved)

    def evaluation(self) -> None:
        """``lerobot-eval`` plays our exports in Push-T."""
        self.checks.begin("lerobot-eval: the trial of a sweep")
        compare_evaluation(self.checks, self.lerobot, self.exported_trial, self.trial, twice=True)
        self.checks.begin("lerobot-eval: camera, hardly trained")
        policy = with_settings(self.camera_policy, sampler="DDIM", num_inference_steps=10)
        folder = self.lerobot.new_file("export")
        checkpoints.save(policy, folder, target=self.release.target)
        compare_evaluation(self.checks, self.lerobot, folder, policy, twice=False)

    def imports(self) -> None:
        """What ``lerobot-train`` makes, here; and what we make, there."""
        self.checks.begin("from lerobot-train: keypoints, DDPM")
        out, root = self.lerobot.new_file("trained"), self.keypoints()
        new = {**TINY, **self.release.new_policy}
        losses = train_there(self.lerobot, root, out, new, steps=300, batch_size=32)
        compare_import(self.checks, self.lerobot, out, root)
        compare_finetuning(self.checks, out, root, self.lerobot.new_file("ours"), self.cache, losses[-1])
        self.checks.begin("from lerobot-train: camera, DDIM, crop")
        out, root = self.lerobot.new_file("trained"), self.pictures()
        ddim = {"policy.noise_scheduler_type": "DDIM", "policy.num_inference_steps": 10}
        train_there(
            self.lerobot,
            root,
            out,
            {**TINY, **self.release.new_policy, **ddim, "policy.crop_shape": "[84, 84]"},
            steps=10,
            batch_size=4,
        )
        compare_import(self.checks, self.lerobot, out, root)
        self.checks.begin("to lerobot-train: the trial of a sweep")
        compare_finetuning_there(
            self.checks,
            self.lerobot,
            self.exported_trial,
            # All episodes: LeRobot takes its dataset's statistics, and these are nearly the trial's.
            ensure_dataset(self.cache, images=False),
            self.lerobot.new_file("trained"),
            self.trial_loss,
        )

    def _export(
        self,
        name: str,
        policy: DiffusionPolicy,
        root: Path,
        folder: Path | None = None,
        moved: Mapping[str, int] | None = None,
    ) -> None:
        self.checks.begin(f"export: {name}")
        compare_export(
            self.checks,
            self.lerobot,
            policy,
            root,
            fields=self.config_fields,
            folder=folder or self.lerobot.new_file("export"),
            moved=moved,
        )

    def _trained(self, name: str, settings: Mapping[str, Any], root: Path | None = None) -> DiffusionPolicy:
        config = {
            "dataset.root": str(root or self.pictures()),
            **materials.TINY,
            **materials.SHORT,
            **settings,
        }
        checkpoint, _ = materials.train(config, self.lerobot.new_file(f"trained_{name}"), self.cache)
        return checkpoints.load(checkpoint)

    @cached_property
    def config_fields(self) -> list[str]:
        """The fields of config.json that LeRobot knows."""
        return list(self._described["config_fields"])

    @cached_property
    def _described(self) -> dict[str, Any]:
        file = self.lerobot.new_file("json")
        self.lerobot.ask("versions", str(file))
        described: dict[str, Any] = json.loads(file.read_text())
        return described

    def versions(self) -> dict[str, dict[str, str]]:
        """Name the versions on both sides."""
        ours = {name: importlib.metadata.version(name) for name in PACKAGES if name != "lerobot"}
        ours["python"] = platform.python_version()
        return {"ours": ours, "theirs": self._described["versions"]}


def sweeper(*arguments: str) -> None:
    """Run one of this project's commands."""
    subprocess.run([str(Path(sys.executable).with_name("sweeper")), *arguments], check=True)


PARTS: Mapping[str, Callable[[Comparison], None]] = {
    "datasets": Comparison.datasets,
    "exports": Comparison.exports,
    "evaluation": Comparison.evaluation,
    "imports": Comparison.imports,
}


def main() -> int:
    """Compare, show the table, write JSON; 1 if something differs that must not."""
    parser = argparse.ArgumentParser(prog="python -m tests.interop.run", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; none: all")
    parser.add_argument("--lerobot", choices=RELEASES, default=next(iter(RELEASES)), help="the version")
    parser.add_argument("--json", type=Path, help="results; default: .interop/results-VERSION.json")
    parser.add_argument("--folder", type=Path, help="folder to work in; default: .interop/work-VERSION")
    parser.add_argument(
        "--keep", action="store_true", help="take the datasets and the sweep that an earlier run made"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    console = Console(highlight=False, width=WIDTH, soft_wrap=True)
    release = RELEASES[arguments.lerobot]
    folder = (arguments.folder or FOLDER / f"work-{release.version}").absolute()
    results_file = arguments.json or FOLDER / f"results-{release.version}.json"
    if not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    comparison = Comparison(release, folder, FOLDER / "cache", console)
    versions = comparison.versions()
    for side, found in versions.items():
        console.print(f"{side}: " + ", ".join(f"{name} {version}" for name, version in found.items()))
    for name in arguments.parts or PARTS:
        PARTS[name](comparison)
    console.print(comparison.checks.table())
    results = {"versions": versions, "checks": comparison.checks.as_json()}
    results_file.write_text(json.dumps(results, indent=2) + "\n")
    failed = len(comparison.checks.failed)
    console.print(f"{len(comparison.checks.made)} comparisons, {failed} failed; {results_file}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
