"""Drafts from files of other tools: W&B sweeps, Hydra with its Optuna sweeper, LeRobot's trainings.

The file is read as `sweeper check` reads it, with the same tables; its answers are applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sweeper.errors import UserError
from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.draft.content import Draft, Written, capitalised
from sweeper.spec.space_file.fields import SECTIONS
from sweeper.spec.space_file.read_sections import folder_name
from sweeper.spec.space_file.translate import Translation, field_value, translate_document
from sweeper.spec.space_file.yaml_nodes import Node, Place
from sweeper.text import describe_value
from trainables.interface import ProposesSpaces, Trainable

__all__ = ["draft_of_sweep", "draft_of_training"]

ALWAYS = (
    "dataset.root",
    "dataset.repo_id",
    "policy.horizon",
    "policy.n_obs_steps",
    "policy.n_action_steps",
    "policy.down_dims",
    "optimizer.name",
    "optimizer.lr",
    "train.steps",
    "train.batch_size",
)
"""Fields of a training that are written even if their value is the default here."""
UNKNOWN = "There is nothing here for it."
MOST_UNKNOWN = 8
"""Unknown settings of a group that are listed one by one."""
SEARCHED_BY = frozenset({"values", "value", "min", "max", "distribution", "choices"})
OUR_KIND = "diffusion"
"""LeRobot's type of the policies that are trained here."""
OBVIOUS = ("Numbers have no quotes.",)
"""Remarks for a user who changes a file by hand."""
FEATURES = ("input_features", "output_features")
NO_AVERAGE = (
    "LeRobot keeps no average of the weights. Here evaluations use one (ema.enabled: true, the default), as "
    "in the paper; config.ema.enabled=false trains as LeRobot does."
)


def draft_of_sweep(root: Mapping[str, Node], source: str, trainable: Trainable) -> Draft:
    """The draft of a file that says what is searched.

    Args:
        root: Its content.
        source: What it is, in words.
        trainable: The trainable whose fields are meant.
    """
    draft = _translated(root, source, trainable)
    draft.is_search = True
    return draft


def draft_of_training(
    settings: Mapping[str, Any], source: str, trainable: Trainable, *, every_value: bool = False
) -> Draft:
    """The draft of a training of LeRobot.

    Args:
        settings: The content of ``train_config.json``, or the flags of a command as nested mappings.
        source: What it is, in words.
        trainable: The trainable whose fields are meant.
        every_value: Whether values that are the defaults here are written too.

    Raises:
        UserError: If another policy is trained.
    """
    policy = settings.get("policy")
    policy = policy if isinstance(policy, Mapping) else {}
    kind = policy.get("type", OUR_KIND)
    if kind != OUR_KIND:
        raise UserError(
            f"{source} trains a policy of type {kind!r}. Only diffusion policies are trained here."
        )
    stated = _without_nothing({**settings, "policy": {**policy, "type": None}})
    tracked = stated.get("wandb")
    if isinstance(tracked, Mapping) and not tracked.get("enable"):
        del stated["wandb"]  # its project is a default, too
    _drop_unused_transforms(stated)
    draft = _translated(_node(Place(""), stated).value, source, trainable)
    if isinstance(trainable, ProposesSpaces) and all(policy.get(name) for name in FEATURES):
        _read_policy(draft, trainable, policy)
        draft.left = [left for left in draft.left if not left.name.startswith(_FEATURE_NAMES)]
    if not every_value:
        defaults = {name: info.default for name, info in trainable.fields.items()}
        for name in [name for name in draft.config if name not in ALWAYS]:
            if draft.config[name].value == defaults[name]:
                draft.equal[name] = draft.config.pop(name).value
    if "ema.enabled" not in draft.config:
        draft.note(NO_AVERAGE)
    return draft


def _drop_unused_transforms(stated: dict[str, Any]) -> None:
    """LeRobot lists its changes of pictures even if they are not enabled."""
    dataset = stated.get("dataset")
    if isinstance(dataset, dict):
        transforms = dataset.get("image_transforms")
        if isinstance(transforms, Mapping) and not transforms.get("enable"):
            del dataset["image_transforms"]


_FEATURE_NAMES = tuple(f"policy.{name}" for name in FEATURES)


def _read_policy(draft: Draft, trainable: ProposesSpaces, policy: Mapping[str, Any]) -> None:
    """The policy as its file means it: a crop that LeRobot ignores, keys that its version did not write."""
    values, notes = trainable.read_policy(policy)
    for name, value in values.items():
        if name.startswith("policy."):
            old = draft.config.get(name)
            if old is None or old.value != value:
                draft.config[name] = Written(value, "" if old is None else old.comment)
    for note in notes:
        draft.note(note)


def _without_nothing(settings: Any) -> Any:
    """Settings without nulls and empty groups: they say that something is not used."""
    if not isinstance(settings, Mapping):
        return settings
    kept = {key: _without_nothing(value) for key, value in settings.items()}
    return {key: value for key, value in kept.items() if value is not None and value != {} and value != []}


def _translated(root: Mapping[str, Node], source: str, trainable: Trainable) -> Draft:
    document = Document(dict(root), Place(source), trainable=trainable)
    plain = {key: node.plain() for key, node in root.items()}
    found = translate_document(document)
    draft = Draft(source)
    sources = {path: name for one in found for path, name in one.sources.items()}
    _take_fields(draft, document, sources)
    for key, node in document.root.items():
        if key in ("config", "parameters", "trainable"):
            continue
        if key == "name":
            draft.name = folder_name(str(node.plain())) or ""
        elif key == "constraints" and isinstance(node.plain(), list):
            draft.constraints = [str(text) for text in node.plain()]
        elif key in SECTIONS:
            if node.plain():
                draft.sections[key] = node.plain()
        else:
            _leave_unknown(draft, document, key, node.plain())
    for one in found:
        _take_remarks(draft, document, one, plain)
        _report_doubles(draft, one)
        draft.evaluations = one.evaluations or draft.evaluations
    draft.decides = bool(draft.parameters)
    return draft


def _take_fields(draft: Draft, document: Document, sources: Mapping[str, str]) -> None:
    for section, entries in (("config", draft.config), ("parameters", draft.parameters)):
        node = document.root.get(section)
        for key, entry in (node.value if node is not None and isinstance(node.value, dict) else {}).items():
            own, plain = document.own_name(key), entry.plain()
            if own is None:
                _leave_unknown(draft, document, key, plain)
                continue
            theirs = sources.get(f"{section}.{own}", key)
            comment = "" if _plain_name(theirs).endswith(f".{own}") else f"was {theirs}"
            if isinstance(plain, dict) and set(plain) == {"value"}:
                info = None if document.trainable is None else document.trainable.fields.get(own)
                draft.config[own] = Written(field_value(info, own, plain["value"]), comment)
            else:
                entries[own] = Written(plain, comment)


def _plain_name(theirs: str) -> str:
    """The dotted name of a field in another tool, without what groups parameters there."""
    return f".{theirs.lower()}".replace(".parameters.", ".")


def _leave_unknown(draft: Draft, document: Document, name: str, plain: Any) -> None:
    """List what has no meaning here; of a group of settings each name that may be misspelt, or all of few."""
    leaves = list(_leaves(name, plain))
    near = {leaf: document.near_field(leaf) for leaf, _ in leaves}
    few = len(leaves) <= MOST_UNKNOWN
    for leaf, value in leaves:
        if few or near[leaf] is not None:
            hint = f" Did you mean {near[leaf]}?" if near[leaf] is not None else ""
            draft.leave(leaf, _short(value), f"{UNKNOWN}{hint}")
    if not few:
        draft.leave(name, None, UNKNOWN)


def _leaves(name: str, plain: Any) -> Iterator[tuple[str, Any]]:
    """The settings of a group by dotted names; anything that is not a group is a single setting."""
    # A mapping with `values`, `min` or `value` is how a search states the values of one name.
    if not isinstance(plain, Mapping) or not plain or not SEARCHED_BY.isdisjoint(plain):
        yield name, plain
        return
    for key, value in plain.items():
        yield from _leaves(f"{name}.{key}", value)


def _take_remarks(draft: Draft, document: Document, found: Translation, plain: Mapping[str, Any]) -> None:
    carried = set(found.sources.values())
    for place, remark in enumerate(found.remarks):
        name = found.about.get(place, "")
        said = re.sub(r"^[\w.]+: (?=[A-Z`])", "", remark)
        if said in OBVIOUS:
            continue
        if name in carried or not name:
            draft.note(f"{name}: {said}" if name else said)
        elif (value := found.values.get(name, _stated(plain, name))) != OUR_KIND:
            draft.leave(name, _short(value), _without_remove(said))
    for name in found.unknown:
        _leave_unknown(draft, document, name, found.values.get(name, _stated(plain, name)))


def _report_doubles(draft: Draft, found: Translation) -> None:
    """Values that were not taken because another name of the same field came first."""
    for path, value in found.entries.items():
        section, _, own = path.partition(".")
        taken = _taken(draft, section, own)
        fixed = isinstance(value, dict) and set(value) == {"value"}
        if taken is not None and taken != (value["value"] if fixed else value):
            shown = own if section in ("config", "parameters") else path
            reason = f"{shown} is set to {describe_value(taken)} by another name."
            draft.leave(found.sources.get(path, own), value, reason)


def _taken(draft: Draft, section: str, own: str) -> Any:
    """The value that the draft has for an entry of a translation; None if it has none."""
    if section in ("config", "parameters"):
        written = draft.config.get(own) or draft.parameters.get(own)
        return None if written is None else written.value
    settings = draft.sections.get(section)
    return settings.get(own) if isinstance(settings, dict) else None


def _without_remove(sentence: str) -> str:
    """A remedy of `check` as a reason: there is nothing to remove in a new file."""
    plain = re.sub(r"^Remove it(?:: |, or |\.$)", "", sentence).strip()
    return capitalised(plain) if plain else "It has no meaning here."


def _stated(plain: Mapping[str, Any], name: str) -> Any:
    """The value that the source states for a name, at its top or in one of our sections."""
    found = _value_at(plain, name)
    inner = (_value_at(plain.get(section), name) for section in ("config", "parameters"))
    return next((value for value in inner if value is not None), None) if found is None else found


def _value_at(plain: Any, name: str) -> Any:
    """The value of a dotted name, whose parts may have dots themselves; None if it is not there."""
    if not name:
        return plain
    if not isinstance(plain, Mapping):
        return None
    for key, value in plain.items():
        if name == key:
            return value
        if name.startswith(f"{key}."):
            return _value_at(value, name[len(str(key)) + 1 :])
    return None


def _short(plain: Any) -> Any:
    """A value that fits into a line; None for a group of settings."""
    if isinstance(plain, Mapping) or (isinstance(plain, list) and len(str(plain)) > 60):
        return None
    return plain


def _node(place: Place, value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node(place, {str(key): _node(place, entry) for key, entry in value.items()})
    if isinstance(value, (list, tuple)):
        return Node(place, [_node(place, entry) for entry in value])
    return Node(place, value)
