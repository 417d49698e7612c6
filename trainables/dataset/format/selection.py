"""What of a dataset is used, and under which names: episodes, features, several datasets as one.

Everything here looks at metadata alone, so that a wrong choice is told before anything is read or fetched.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from trainables.dataset.format.metadata import EpisodeRecord, Metadata, listed
from trainables.dataset.format.schema import INDEX_FEATURES, DatasetFeature, dimension_texts, policy_feature
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures
from trainables.interface import Fault
from trainables.ranges import Choice

__all__ = [
    "feature_faults",
    "match_faults",
    "policy_features",
    "rename_faults",
    "rename_features",
    "select_episodes",
    "selection_faults",
]

FEATURES = "dataset.features"
OBSERVATIONS = "dataset.observations"


# -- episodes


def select_episodes(
    metadata: Metadata, episodes: Choice | None, exclude: Choice
) -> tuple[EpisodeRecord, ...]:
    """Choose episodes, by ascending index."""
    return tuple(
        record
        for record in metadata.episodes
        if (episodes is None or record.index in episodes) and record.index not in exclude
    )


def selection_faults(sets: Sequence[Metadata], episodes: Choice | None, exclude: Choice) -> list[Fault]:
    """Say what is wrong with a choice of episodes."""
    faults = [
        Fault("dataset.root", f"{str(metadata.root)!r} has no episodes.")
        for metadata in sets
        if not metadata.episodes
    ]
    if faults:
        return faults
    there = {record.index for metadata in sets for record in metadata.episodes}
    for where, chosen in {"dataset.episodes": episodes, "dataset.exclude_episodes": exclude}.items():
        missing = chosen.missing(there) if chosen is not None else []
        if missing:
            faults.append(Fault(where, f"{listed(missing)} do not exist.", _existing(sets)))
    if not faults and not any(select_episodes(metadata, episodes, exclude) for metadata in sets):
        faults.append(Fault("dataset.episodes", "no episode is left.", "Choose at least two."))
    return faults


def _existing(sets: Sequence[Metadata]) -> str:
    stretches = [
        f"{metadata.episodes[0].index} to {metadata.episodes[-1].index}, {len(metadata.episodes)} of them"
        for metadata in sets
    ]
    if len(sets) == 1:
        return f"The dataset has episodes {stretches[0]}."
    named = [f"{stretch} ({metadata.root})" for stretch, metadata in zip(stretches, sets, strict=True)]
    return f"The datasets have episodes {'; '.join(named)}."


# -- names of features


def rename_features(metadata: Metadata, renames: Mapping[str, str]) -> Metadata:
    """Call features by other names; ``rename_faults`` has said that it can be done.

    Args:
        metadata: As it was read.
        renames: Name in the files -> name from now on; names that this dataset lacks are left aside.
    """
    there = {name: target for name, target in renames.items() if name in metadata.features and name != target}
    if not there:
        return metadata
    episodes = tuple(
        replace(episode, videos={there.get(name, name): place for name, place in episode.videos.items()})
        for episode in metadata.episodes
    )
    features = {there.get(name, name): feature for name, feature in metadata.features.items()}
    renamed = {target: name for name, target in there.items()}
    return replace(metadata, features=features, episodes=episodes, renamed=renamed)


def rename_faults(sets: Sequence[Metadata], renames: Mapping[str, str]) -> list[Fault]:
    """Say what is wrong with renames, before they are made."""
    every = list(dict.fromkeys(name for metadata in sets for name in metadata.features))
    faults = []
    for name, target in renames.items():
        if name not in every:
            problem = f"{'the dataset has' if len(sets) == 1 else 'the datasets have'} no feature {name!r}."
            near = difflib.get_close_matches(name, every, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            faults.append(Fault(FEATURES, problem, f"{hint}It has: {', '.join(every)}."))
        elif name in INDEX_FEATURES or target in INDEX_FEATURES:
            fixed = name if name in INDEX_FEATURES else target
            problem = f"{fixed!r} says where a frame is; this name stands for nothing else."
            faults.append(Fault(FEATURES, problem, "Leave it as it is."))
    return faults or [fault for metadata in sets for fault in _clashes(metadata, renames)]


def _clashes(metadata: Metadata, renames: Mapping[str, str]) -> Iterable[Fault]:
    """Two features of one dataset would have one name."""
    there = {name: target for name, target in renames.items() if name in metadata.features}
    taken = dict.fromkeys(name for name in metadata.features if name not in there)
    owners: dict[str, str] = {name: name for name in taken}
    for name, target in there.items():
        if target not in owners:
            owners[target] = name
            continue
        other = owners[target]
        problem = f"{name!r} cannot become {target!r}: "
        if other == target:
            problem += f"{metadata.root} has a feature of this name."
            remedy = "Give that another name too, or leave this one as it is."
        else:
            problem += f"{other!r} of {metadata.root} does."
            remedy = "Rename one of them."
        yield Fault(FEATURES, problem, remedy)


# -- features of a policy


def policy_features(metadata: Metadata, observations: Collection[str] | None) -> PolicyFeatures:
    """Choose a policy's inputs and output; ``feature_faults`` has said that it can be done."""
    usable = _usable(metadata)
    return PolicyFeatures.of(
        feature
        for name, feature in usable.items()
        if feature.type is FeatureType.ACTION or observations is None or name in observations
    )


def _usable(metadata: Metadata) -> dict[str, Feature]:
    """The features a diffusion policy uses: every camera, the two states by their exact names, the action."""
    usable = {}
    for name, described in metadata.features.items():
        feature = policy_feature(name, described)
        if feature is not None and (described.is_camera or name in (STATE, ENVIRONMENT_STATE, ACTION)):
            usable[name] = feature
    return usable


def feature_faults(metadata: Metadata, observations: Collection[str] | None) -> list[Fault]:
    """Say what is wrong with a dataset's features, and with the choice of observations."""
    usable = _usable(metadata)
    info = str(metadata.root / "meta" / "info.json")
    faults = [
        Fault(info, f"there is no feature {name!r}.", _near_names(name, metadata))
        for name in (STATE, ACTION)
        if name not in usable
    ]
    for name, feature in usable.items():
        described = metadata.features[name]
        if not described.is_camera and len(feature.shape) != 1:
            faults.append(Fault(info, f"{name} has shape {list(feature.shape)}.", "It must be a vector."))
        if described.dtype == "string":
            faults.append(Fault(info, f"{name} is text.", "It must be numbers."))
    inputs = [name for name, feature in usable.items() if feature.type is not FeatureType.ACTION]
    unknown = [name for name in observations or () if name not in inputs]
    faults += [_unknown_observation(name, inputs, metadata.features) for name in unknown]
    if observations is not None and STATE in inputs and STATE not in observations:
        remedy = "A diffusion policy needs it: add it, or use null for every observation."
        faults.append(Fault(OBSERVATIONS, f"{STATE} is not among them.", remedy))
    return faults


def _unknown_observation(name: str, inputs: Sequence[str], features: Mapping[str, DatasetFeature]) -> Fault:
    if name in features:
        problem = f"{name!r} is in the dataset, but no diffusion policy takes it as an input."
    else:
        problem = f"the dataset has no {name!r}."
    near = difflib.get_close_matches(name, inputs, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return Fault(OBSERVATIONS, problem, f"{hint}It has: {', '.join(inputs)}.")


def _near_names(name: str, metadata: Metadata) -> str:
    """What to do about a missing feature: the rename to write down, where one of another name may be it."""
    last = name.rpartition(".")[2]
    vectors = [
        other
        for other, described in metadata.features.items()
        if not described.is_camera
        and described.dtype != "string"
        and other not in (*INDEX_FEATURES, STATE, ENVIRONMENT_STATE, ACTION)
    ]
    near = [other for other in vectors if last in other or other in name]
    near += [other for other in difflib.get_close_matches(name, vectors, n=3) if other not in near]
    if not near:
        return f"A diffusion policy needs it. The dataset has: {', '.join(metadata.features)}."
    near.sort(key=lambda other: -difflib.SequenceMatcher(None, other.rpartition(".")[2], last).ratio())
    renames = {recorded: target for target, recorded in metadata.renamed.items()} | {near[0]: name}
    literal = ", ".join(f"{recorded}: {target}" for recorded, target in renames.items())
    return f"Nearest: {', '.join(near)}. Set {FEATURES}: {{{literal}}}."


# -- several datasets


def match_faults(
    names: Sequence[str],
    fields: Sequence[str],
    sets: Sequence[Metadata],
    observations: Collection[str] | None,
) -> list[Fault]:
    """Say in what datasets differ that are to be one.

    Args:
        names: What each of them is called.
        fields: The configuration field that named each of them.
        sets: Their metadata, features renamed; each has a state and an action.
        observations: The chosen observations; None: all, and then they must be the same everywhere.
    """
    first = sets[0]
    usable = [_usable(metadata) for metadata in sets]
    faults = []
    for name, field, metadata, features in zip(names[1:], fields[1:], sets[1:], usable[1:], strict=True):
        if metadata.fps != first.fps:
            problem = f"{name} has {metadata.fps:g} frames per second, {names[0]} has {first.fps:g}."
            faults.append(Fault(field, problem, "Only sets of one frame rate can be one."))
        for feature in usable[0].values():
            chosen = observations is None or feature.name in observations or feature.name == ACTION
            if chosen and feature.name not in features:
                problem = f"{name} has no {feature.name}, {names[0]} has."
                faults.append(Fault(field, problem, _choose_shared(usable)))
            elif chosen:
                faults += _feature_differs(field, (names[0], first), (name, metadata), feature.name)
        for extra in [other for other in features if other not in usable[0] and observations is None]:
            problem = f"{name} has {extra}, {names[0]} has not."
            faults.append(Fault(field, problem, _choose_shared(usable)))
    return faults


def _choose_shared(usable: Sequence[Mapping[str, Feature]]) -> str:
    shared = [name for name in usable[0] if name != ACTION and all(name in features for features in usable)]
    renaming = f"Rename what is the same by {FEATURES}, or use only what all have"
    return f"{renaming}: {OBSERVATIONS}: [{', '.join(shared)}]."


def _feature_differs(
    field: str, first: tuple[str, Metadata], other: tuple[str, Metadata], feature: str
) -> list[Fault]:
    (first_name, first_set), (other_name, other_set) = first, other
    shapes = [_usable(metadata)[feature].shape for metadata in (first_set, other_set)]
    if shapes[0] != shapes[1]:
        problem = f"{feature} is {list(shapes[1])} in {other_name}, {list(shapes[0])} in {first_name}."
        remedy = "Sets can be one where their features have the same shapes."
        if len(shapes[0]) == 3:
            remedy = f"Record at one size, or leave the camera out of {OBSERVATIONS}."
        return [Fault(field, problem, remedy)]
    names = [dimension_texts(metadata.features[feature].names) for metadata in (first_set, other_set)]
    if len(shapes[0]) == 1 and names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
        problem = (
            f"{feature} has its dimensions in another order in {other_name} ({', '.join(names[1])}) "
            f"than in {first_name} ({', '.join(names[0])})."
        )
        return [
            Fault(field, problem, "Bring them into one order: the policy knows dimensions by their place.")
        ]
    return []
