"""What of a dataset is used, and under which names: episodes, features, several datasets as one.

Everything here looks at metadata alone, so that a wrong choice is reported before data are read or fetched.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from trainables.dataset.format.episodes import EpisodeRecord
from trainables.dataset.format.files import listed
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import (
    INDEX_FEATURES,
    DatasetFeature,
    dimension_texts,
    plain_dimensions,
    policy_feature,
)
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures
from trainables.interface import Fault
from trainables.ranges import Choice, compressed

__all__ = [
    "Renames",
    "camera_faults",
    "camera_place_faults",
    "feature_faults",
    "match_faults",
    "place_faults",
    "policy_features",
    "rename_faults",
    "rename_features",
    "select_episodes",
    "selection_faults",
    "usable_features",
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
    # An episode without frames may be named: it is left out.
    there |= {index + metadata.before for metadata in sets for index in metadata.empty}
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


Renames = Mapping[str, str | Sequence[str]]
"""``{its name: ours}`` for one feature, ``{ours: [its names]}`` for a vector that is put together."""


def split_renames(renames: Renames) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """The renames of single features, and the vectors that are put together."""
    single = {name: target for name, target in renames.items() if isinstance(target, str)}
    joined = {name: tuple(parts) for name, parts in renames.items() if not isinstance(parts, str)}
    return single, joined


def rename_features(metadata: Metadata, renames: Renames) -> Metadata:
    """Call features by other names; ``rename_faults`` has said that it can be done.

    Args:
        metadata: As it was read.
        renames: See ``Renames``; names that this dataset lacks are left aside.
    """
    single, joined = split_renames(renames)
    metadata = _join_features(metadata, joined)
    there = {name: target for name, target in single.items() if name in metadata.features and name != target}
    if not there:
        return metadata
    episodes = tuple(
        replace(episode, videos={there.get(name, name): place for name, place in episode.videos.items()})
        for episode in metadata.episodes
    )
    features = {there.get(name, name): feature for name, feature in metadata.features.items()}
    renamed = {target: name for name, target in there.items()}
    return replace(metadata, features=features, episodes=episodes, renamed=renamed)


def _join_features(metadata: Metadata, joined: Mapping[str, tuple[str, ...]]) -> Metadata:
    """Put vectors together, in place of the first of their parts."""
    here = {name: parts for name, parts in joined.items() if set(parts) <= set(metadata.features)}
    if not here:
        return metadata
    features: dict[str, DatasetFeature] = {}
    owner = {part: name for name, parts in here.items() for part in parts}
    for name, feature in metadata.features.items():
        if name not in owner:
            features[name] = feature
        elif owner[name] not in features:
            parts = {part: metadata.features[part] for part in here[owner[name]]}
            names = [text for part, described in parts.items() for text in _joined_names(part, described)]
            features[owner[name]] = DatasetFeature("float32", (len(names),), names)
    every = {name: {part: metadata.features[part] for part in parts} for name, parts in here.items()}
    return replace(metadata, features=features, joined=every)


def _joined_names(name: str, feature: DatasetFeature) -> list[str]:
    """Names of the dimensions that a feature brings into a vector."""
    size = math.prod(feature.shape)
    own = dimension_texts(feature.names)
    if size == 1:
        return [name]
    return [f"{name}.{text}" for text in (own if len(own) == size else map(str, range(size)))]


def rename_faults(sets: Sequence[Metadata], renames: Renames) -> list[Fault]:
    """Say what is wrong with renames, before they are made."""
    every = list(dict.fromkeys(name for metadata in sets for name in metadata.features))
    unusable = {name: why for metadata in sets for name, why in metadata.unusable.items()}
    single, joined = split_renames(renames)
    faults = []
    named = list(single.items())
    named += [(part, target) for target, parts in joined.items() for part in parts]
    for name, target in named:
        if name in unusable:
            faults.append(Fault(FEATURES, f"{name!r} {unusable[name]}.", "Correct it in meta/info.json."))
        elif name not in every:
            problem = f"{'the dataset has' if len(sets) == 1 else 'the datasets have'} no feature {name!r}."
            near = difflib.get_close_matches(name, every, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            faults.append(Fault(FEATURES, problem, f"{hint}It has: {', '.join(every)}."))
        elif name in INDEX_FEATURES or target in INDEX_FEATURES:
            fixed = name if name in INDEX_FEATURES else target
            problem = f"{fixed!r} says where a frame is; this name stands for nothing else."
            faults.append(Fault(FEATURES, problem, "Leave it as it is."))
    faults += _join_faults(sets, single, joined) if not faults else []
    return faults or [fault for metadata in sets for fault in _clashes(metadata, single)]


def _join_faults(
    sets: Sequence[Metadata], single: Mapping[str, str], joined: Mapping[str, tuple[str, ...]]
) -> list[Fault]:
    """Why vectors cannot be put together as they are named."""
    faults = []
    taken: dict[str, str] = dict(single)
    for target, parts in joined.items():
        if not parts:
            faults.append(
                Fault(FEATURES, f"{target!r} is an empty list.", "List the features in their order.")
            )
        for part in parts:
            if part in taken:
                other = f"already part of {taken[part]!r}" if part not in single else "renamed too"
                faults.append(Fault(FEATURES, f"{part!r} is {other}.", "Use each feature once."))
            taken[part] = target
        for metadata in sets:
            lacking = [part for part in parts if part not in metadata.features]
            if lacking and len(lacking) < len(parts):
                problem = f"{metadata.root} has only some parts of {target!r}: {', '.join(lacking)} missing."
                faults.append(Fault(FEATURES, problem, "Use features that every dataset has."))
            if target in metadata.features and target not in parts and not lacking:
                problem = f"{metadata.root} has a feature {target!r} already."
                faults.append(Fault(FEATURES, problem, "Rename that one, or use it."))
            for part in parts:
                described = metadata.features.get(part)
                if described is not None and (described.is_camera or not _is_number(described.dtype)):
                    problem = f"{part!r} has dtype {described.dtype!r}, which is not a number."
                    faults.append(Fault(FEATURES, problem, "Only numbers can be parts of a vector."))
    return faults


def _is_number(dtype: str) -> bool:
    return re.fullmatch(r"(float|u?int)\d+|bool|float|int|double", dtype) is not None


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
    usable = usable_features(metadata)
    return PolicyFeatures.of(
        feature
        for name, feature in usable.items()
        if feature.type is FeatureType.ACTION or observations is None or name in observations
    )


def usable_features(metadata: Metadata) -> dict[str, Feature]:
    """The features a diffusion policy uses: every camera but depth maps, the two states, the action."""
    usable = {}
    for name, described in metadata.features.items():
        feature = policy_feature(name, described)
        if described.is_depth and described.is_camera:
            continue  # distances are not colours, and the encoders of a policy are made for colours
        if feature is not None and (described.is_camera or name in (STATE, ENVIRONMENT_STATE, ACTION)):
            usable[name] = feature
    return usable


def feature_faults(metadata: Metadata, observations: Collection[str] | None) -> list[Fault]:
    """Say what is wrong with a dataset's features, and with the choice of observations."""
    usable = usable_features(metadata)
    info = str(metadata.root / "meta" / "info.json")
    faults = [
        Fault(info, f"{name} {metadata.unusable[name]}.", "It must be a vector: correct its dtype and shape.")
        if name in metadata.unusable
        else Fault(info, f"there is no feature {name!r}.", _near_names(name, metadata))
        for name in (STATE, ACTION)
        if name not in usable
    ]
    if ENVIRONMENT_STATE in metadata.unusable and (observations is None or ENVIRONMENT_STATE in observations):
        problem = f"{ENVIRONMENT_STATE} {metadata.unusable[ENVIRONMENT_STATE]}."
        faults.append(
            Fault(info, problem, f"Correct its dtype and shape, or leave it out of {OBSERVATIONS}.")
        )
    for name, feature in usable.items():
        described = metadata.features[name]
        if not described.is_camera and len(feature.shape) != 1:
            faults.append(Fault(info, f"{name} has shape {list(feature.shape)}.", "It must be a vector."))
        if described.dtype == "string":
            faults.append(Fault(info, f"{name} is text.", "It must be numbers."))
    inputs = [name for name, feature in usable.items() if feature.type is not FeatureType.ACTION]
    unknown = [name for name in observations or () if name not in inputs]
    faults += [_unknown_observation(name, inputs, metadata) for name in unknown]
    if observations is not None and STATE in inputs and STATE not in observations:
        remedy = "A diffusion policy needs it: add it, or use null for every observation."
        faults.append(Fault(OBSERVATIONS, f"{STATE} is not among them.", remedy))
    return faults


def camera_faults(metadata: Metadata, observations: Collection[str] | None) -> list[Fault]:
    """Say which features seem to be cameras, and are not described as such by info.json."""
    info = str(metadata.root / "meta" / "info.json")
    usable = usable_features(metadata)
    inputs = [name for name, feature in usable.items() if feature.type is not FeatureType.ACTION]
    faults = []
    for name, why in metadata.suspects.items():
        if observations is None:  # names that were chosen are checked by feature_faults
            remedy = (
                f"Correct dtype and shape of {name} in info.json, or set {OBSERVATIONS}: "
                f"[{', '.join(inputs)}] to train without it."
            )
            faults.append(Fault(info, f"{name} {why}.", remedy))
    return faults


def place_faults(
    sets: Sequence[Metadata],
    episodes: Choice | None,
    exclude: Choice,
    observations: Collection[str] | None,
) -> list[Fault]:
    """Say which chosen episodes have no place in the videos of which chosen camera."""
    return [
        fault
        for metadata in sets
        for camera in policy_features(metadata, observations).cameras
        for fault in camera_place_faults(metadata, select_episodes(metadata, episodes, exclude), camera.name)
    ]


def camera_place_faults(metadata: Metadata, records: Sequence[EpisodeRecord], camera: str) -> Iterator[Fault]:
    """Say which of some episodes have no place in the videos of a camera."""
    if metadata.features[camera].dtype != "video":
        return
    lacking = [record.index for record in records if camera not in record.videos]
    if not lacking:
        return
    recorded = metadata.recorded(camera)
    every = len(lacking) == len(records)
    where = str(metadata.root / "meta" / "episodes")
    problem = (
        f"the columns videos/{recorded}/chunk_index and file_index are empty for "
        f"{'every episode' if every else f'episodes {compressed(lacking)}'}."
    )
    leave = f"leave {camera} out of {OBSERVATIONS}"
    remedy = leave if every else f"set dataset.exclude_episodes: {compressed(lacking)}, or {leave}"
    yield Fault(where, problem, f"Repair them, {remedy}.", () if every else tuple(lacking))


def _unknown_observation(name: str, inputs: Sequence[str], metadata: Metadata) -> Fault:
    features = metadata.features
    if name in metadata.suspects:
        problem = f"{name!r} {metadata.suspects[name]}."
        return Fault(OBSERVATIONS, problem, "Correct its dtype and shape in meta/info.json.")
    if name in metadata.unusable:
        return Fault(OBSERVATIONS, f"{name!r} {metadata.unusable[name]}.", "Correct it in meta/info.json.")
    if name in features and features[name].is_camera and features[name].is_depth:
        problem = f"{name!r} is a depth map, and a policy's encoders take colour pictures."
        return Fault(OBSERVATIONS, problem, f"Leave it out: {OBSERVATIONS}: [{', '.join(inputs)}].")
    if name in features:
        problem = f"{name!r} is in the dataset, but no diffusion policy takes it as an input."
    else:
        problem = f"the dataset has no {name!r}."
    near = difflib.get_close_matches(name, inputs, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    return Fault(OBSERVATIONS, problem, f"{hint}It has: {', '.join(inputs)}.")


def _near_names(name: str, metadata: Metadata) -> str:
    """What to do about a missing feature: the value to set, if features of other names may be it."""
    near = _near(name, metadata)
    if not near:
        return f"A diffusion policy needs it. The dataset has: {', '.join(metadata.features)}."
    # One value for all that is missing: set one by one, the second would replace the first.
    single, joins = {}, {}
    for missing in (one for one in (STATE, ACTION) if one not in metadata.features):
        found = near if missing == name else _near(missing, metadata)
        if len(found) > 1 and found == _one_dimension_each(missing, metadata):
            joins[missing] = found
        elif found:
            single[found[0]] = missing
    literal = _literal(metadata, single, joins)
    if name in joins:
        return (
            f"It seems to be recorded joint by joint. Set {FEATURES}: {literal}, in the order of the joints."
        )
    return f"Nearest: {', '.join(near)}. Set {FEATURES}: {literal}."


def _near(name: str, metadata: Metadata) -> list[str]:
    """Features that may be a missing one: all dimensions of it, or the nearest by name first."""
    alike = _one_dimension_each(name, metadata)
    if len(alike) > 1:
        return alike
    last = name.rpartition(".")[2]
    vectors = _vectors(metadata)
    near = [other for other in vectors if last in other or other in name]
    near += [other for other in difflib.get_close_matches(name, vectors, n=3) if other not in near]
    near.sort(key=lambda other: -difflib.SequenceMatcher(None, other.rpartition(".")[2], last).ratio())
    return near


def _vectors(metadata: Metadata) -> list[str]:
    """Features that may be renamed to a state or an action."""
    return [
        other
        for other, described in metadata.features.items()
        if not described.is_camera
        and described.dtype != "string"
        and other not in (*INDEX_FEATURES, STATE, ENVIRONMENT_STATE, ACTION)
    ]


def _one_dimension_each(name: str, metadata: Metadata) -> list[str]:
    """Features of one number each that may be the dimensions of a vector, by the start of their names."""
    start = name.partition(".")[0]
    return [
        other
        for other in _vectors(metadata)
        if re.match(rf"{start}s?[._/]", other)
        and math.prod(metadata.features[other].shape) == 1
        and _is_number(metadata.features[other].dtype)
    ]


def _literal(
    metadata: Metadata,
    single: Mapping[str, str] | None = None,
    joins: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The value of dataset.features with what is set already and what is proposed."""
    every: dict[str, str] = {recorded: target for target, recorded in metadata.renamed.items()}
    every |= single or {}
    lists = {target: list(parts) for target, parts in metadata.joined.items()} | dict(joins or {})
    pieces = [f"{recorded}: {target}" for recorded, target in every.items()]
    pieces += [f"{target}: [{', '.join(parts)}]" for target, parts in lists.items()]
    return f"{{{', '.join(pieces)}}}"


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
    usable = [usable_features(metadata) for metadata in sets]
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
    shapes = [usable_features(metadata)[feature].shape for metadata in (first_set, other_set)]
    if shapes[0] != shapes[1]:
        problem = f"{feature} is {list(shapes[1])} in {other_name}, {list(shapes[0])} in {first_name}."
        remedy = "Sets can be one where their features have the same shapes."
        if len(shapes[0]) == 3:
            remedy = f"Record at one size, or leave the camera out of {OBSERVATIONS}."
        return [Fault(field, problem, remedy)]
    names = [dimension_texts(metadata.features[feature].names) for metadata in (first_set, other_set)]
    plain = [plain_dimensions(metadata.features[feature].names) for metadata in (first_set, other_set)]
    if len(shapes[0]) == 1 and plain[0] != plain[1] and sorted(plain[0]) == sorted(plain[1]):
        problem = (
            f"{feature} has its dimensions in another order in {other_name} ({', '.join(names[1])}) "
            f"than in {first_name} ({', '.join(names[0])})."
        )
        return [
            Fault(field, problem, "Bring them into one order: the policy knows dimensions by their place.")
        ]
    return []
