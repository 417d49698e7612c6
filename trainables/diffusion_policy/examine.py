"""The findings of a Diffusion Policy's doctor: those on the dataset, and those on its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainables.dataset.doctor.examination import Aims
from trainables.dataset.doctor.examination import examine as examine_dataset
from trainables.dataset.doctor.salvage import Wanted, open_partly, unreadable
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.metadata import check_folder
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.open import Sources
from trainables.dataset.sources.find import Source, find_source
from trainables.diffusion_policy.clipped import dataset_reach
from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig
from trainables.diffusion_policy.config.sections import DatasetConfig
from trainables.diffusion_policy.data import camera_faults, image_sizes, load_dataset, source
from trainables.diffusion_policy.network.clipping import clip_problem, clip_remedy, is_safe
from trainables.features import FeatureType
from trainables.interface import Examination, Fault, Finding, expanded, is_url, silent
from trainables.ranges import compressed, parse_choice

__all__ = ["examine"]

SMALL_CROP = 0.6
"""The paper's crops keep 76 % (Push-T) to 81 % (real arms) of the picture."""
OPENINGS = 5
"""A dataset is opened again without the episodes that prevent it. Each kind of damage is reported for all of
its episodes together, so that few attempts are enough."""


def examine(
    config: DiffusionConfig,
    cache: Path,
    progress: Callable[[str], None] = silent,
    *,
    every_frame: bool = False,
) -> Examination:
    """Examine the dataset of a configuration as thoroughly as possible, pictures included.

    Args:
        config: The dataset, and the windows, normalisation and crop for its use.
        cache: Folder for the built-in dataset.
        progress: Receives a message for each step.
        every_frame: Decode every picture instead of a sample.

    Raises:
        DatasetError: If the configuration names episodes or features that the dataset does not have.
    """
    opened = _open(config.dataset, cache, progress)
    findings = opened.findings
    looked_at: dict[str, int] = {}
    for dataset in opened.datasets:
        found, pictures = _examine(config, dataset, progress, every_frame=every_frame)
        known = {(one.where, one.problem) for one in findings}
        findings += [one for one in found if (one.where, one.problem) not in known]
        for camera, count in pictures.items():
            looked_at[camera] = looked_at.get(camera, 0) + count
    order = ("error", "warning", "note")
    findings.sort(key=lambda finding: order.index(finding.severity))
    return Examination(tuple(findings), _summary(config.dataset, opened, looked_at))


def _examine(
    config: DiffusionConfig,
    dataset: LeRobotDataset,
    progress: Callable[[str], None],
    *,
    every_frame: bool,
) -> tuple[list[Finding], dict[str, int]]:
    """Examine an opened dataset; and how many pictures of each camera were looked at."""
    policy = config.policy
    aims = Aims(policy.n_obs_steps, policy.horizon, policy.drop_n_last_frames, _min_max(config, dataset))
    found, looked_at = examine_dataset(dataset, aims, progress, every_frame=every_frame)
    return [*found, *_crops(config, dataset), *_clip(config, dataset)], looked_at


def _summary(config: DatasetConfig, opened: _Opened, looked_at: Mapping[str, int]) -> dict[str, Any]:
    if not opened.datasets:
        return {}
    first = opened.datasets[0]
    whole = first if opened.is_whole else None
    return {
        "version": first.version,
        "fps": first.fps,
        "episodes": sum(len(dataset.episodes) for dataset in opened.datasets),
        "frames": sum(len(dataset) for dataset in opened.datasets),
        "pictures": dict(looked_at),
        "skipped": opened.skipped,
        "exclude_episodes": None if whole is None else _exclude(config, whole, opened.findings),
    }


@dataclass
class _Opened:
    """What can be examined.

    Attributes:
        findings: What could not be opened, and why.
        datasets: The dataset; each one by itself if they cannot be opened as one.
        skipped: What cannot be examined, in words.
        is_whole: Whether the dataset was opened as training would.
    """

    findings: list[Finding] = field(default_factory=list)
    datasets: list[LeRobotDataset] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    is_whole: bool = True


def _open(config: DatasetConfig, cache: Path, progress: Callable[[str], None]) -> _Opened:
    """Open as much of the dataset as can be; what cannot is a finding.

    Raises:
        DatasetError: If the dataset does not exist, or the configuration is wrong.
    """
    roots = (config.root,) if isinstance(config.root, str) else config.root or ()
    for root in roots:
        if not is_url(root):
            check_folder(expanded(root))
    found = source(config, cache, progress)  # a store that does not answer is not a finding on the dataset
    opened = _Opened()
    left_out: tuple[int | str, ...] = tuple(config.exclude_episodes)
    for _ in range(OPENINGS):
        try:
            chosen = dataclasses.replace(config, exclude_episodes=left_out)
            opened.datasets = [load_dataset(chosen, cache, progress)]
        except DatasetError as error:
            if any(_is_a_choice(fault) for fault in error.faults):
                if not opened.findings:
                    raise
                return opened  # no episode is left
            opened.findings += [unreadable(fault) for fault in error.faults]
            if not all(fault.episodes for fault in error.faults):
                break
            left_out += tuple(index for fault in error.faults for index in fault.episodes)
        else:
            return opened
    return _open_partly(config, found, opened, progress)


def _open_partly(
    config: DatasetConfig, found: Sources, opened: _Opened, progress: Callable[[str], None]
) -> _Opened:
    """Open what can be read of each dataset by itself, whatever is wrong with its metadata."""
    several = not isinstance(found, (str, Path, Source)) and len(found) > 1
    wanted = Wanted(
        None if several or config.episodes is None else parse_choice(config.episodes),
        parse_choice(() if several else config.exclude_episodes),
        config.observations,
        config.features or {},
        config.tolerance_s,
    )
    progress("examining what can be read")
    opened.is_whole = False
    for one in [found] if isinstance(found, (str, Path, Source)) else found:
        salvaged = open_partly(find_source(one, revision=config.revision, cache=None), wanted)
        # Told again with what stands in for it.
        told = {(new.where, new.problem) for new in salvaged.findings}
        opened.findings = [old for old in opened.findings if (old.where, old.problem) not in told]
        opened.findings += salvaged.findings
        opened.skipped += salvaged.skipped
        opened.datasets += [salvaged.dataset] if salvaged.dataset is not None else []
    return opened


def _exclude(config: DatasetConfig, dataset: LeRobotDataset, findings: list[Finding]) -> str | None:
    """The value of dataset.exclude_episodes that leaves no error; None without such a value or an error."""
    errors = [found for found in findings if found.severity == "error"]
    concerned = {index for found in errors for index in found.episodes}
    there = {episode.index for episode in dataset.episodes}
    if not errors or not all(found.episodes for found in errors) or there <= concerned:
        return None
    return compressed([*concerned, *_chosen_already(config)])


def _chosen_already(config: DatasetConfig) -> list[int]:
    """Episodes that the configuration leaves out, ranges expanded: they exist, so that they are few."""
    choice = parse_choice(config.exclude_episodes)
    return [*choice.numbers, *(number for numbers in choice.ranges for number in numbers)]


def _is_a_choice(fault: Fault) -> bool:
    """Whether the configuration is wrong, or the hub lacks the dataset; otherwise the data are damaged."""
    return fault.where in FIELDS and fault.where != "dataset.root"


def _min_max(config: DiffusionConfig, dataset: LeRobotDataset) -> frozenset[str]:
    """Features that are normalised by their extremes."""
    modes = {
        FeatureType.STATE: config.policy.normalization_state,
        FeatureType.ENV: config.policy.normalization_environment_state,
        FeatureType.ACTION: config.policy.normalization_action,
    }
    features = dataset.policy_features.all()
    return frozenset(feature.name for feature in features if modes.get(feature.type) == "MIN_MAX")


def _crops(config: DiffusionConfig, dataset: LeRobotDataset) -> list[Finding]:
    """Check that the cameras fit the policy, and how much of each picture a crop keeps."""
    why = "The policy sees only the crop, at run time the central one."
    faults = camera_faults(config, dataset.policy_features)
    findings = [Finding("crop", "error", fault.where, fault.problem, why, fault.remedy) for fault in faults]
    for name, size in image_sizes(config, dataset.policy_features).items():
        crop = config.policy.crop_size(size)
        share = 1.0 if crop is None else crop[0] * crop[1] / (size[0] * size[1])
        if crop is not None and not faults and share < SMALL_CROP:
            problem = f"{crop[0]}×{crop[1]} keeps {share:.0%} of {name}, {size[0]}×{size[1]}."
            remedy = "Set a smaller policy.resize_shape first, or a larger policy.crop_shape."
            findings.append(Finding("crop", "warning", "policy.crop_shape", problem, why, remedy))
    return findings


def _clip(config: DiffusionConfig, dataset: LeRobotDataset) -> list[Finding]:
    """Check that the policy can predict all demonstrated actions."""
    policy = config.policy
    if is_safe(policy) or not dataset.policy_features.action_dim:
        return []
    reach = dataset_reach(policy, dataset)
    problem = None if reach is None else clip_problem(policy, reach)
    if problem is None:
        return []
    why = "The policy can never predict actions beyond this range, although it is trained on them."
    remedy = clip_remedy(reach)
    return [Finding("clipped_actions", "warning", "policy.clip_sample_range", problem, why, remedy)]
