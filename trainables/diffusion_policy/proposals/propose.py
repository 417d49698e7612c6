"""A first space, from a dataset, from the settings of a training, or from both.

What the given configuration decides stays as it is; the rest is chosen from the dataset. Around a training
that the user has already, the search begins at its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS
from trainables.diffusion_policy.proposals.dataset_facts import DatasetFacts
from trainables.diffusion_policy.proposals.pictures import picture_size
from trainables.diffusion_policy.proposals.recipes import Recipe, batch_size, recipe_for, training_steps
from trainables.features import ENVIRONMENT_STATE, Feature
from trainables.interface import Proposal, ProposedField

__all__ = ["propose"]

SHORTEST_S = 0.8
"""The shortest chunk of actions that is tried; each further one is twice as long."""
HORIZONS = 3
LONGEST_HORIZON = 128
EVALUATIONS = 10
WARMUP = 500
HOLDOUT = 0.1
LEAST_HELD_OUT = 2
LR = (3e-5, 6e-4)
AROUND = 5.0
"""How far from the user's learning rate the search goes, as a factor on both sides."""
FITS = "policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1"


@dataclass
class _Choice:
    """A proposal while it is made.

    Attributes:
        given: The configuration that is decided already.
        facts: The dataset; None if it is not known.
        config: Proposed values, by name.
        parameters: Proposed parameters, in the order of their importance.
        remarks: Sentences for the user.
    """

    given: Mapping[str, Any]
    facts: DatasetFacts | None
    config: dict[str, ProposedField] = field(default_factory=dict)
    parameters: list[ProposedField] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def value(self, name: str) -> Any:
        """A field's value: proposed, given, or its default."""
        if name in self.config:
            return self.config[name].value
        return self.given.get(name, FIELDS[name].default)

    def fix(self, name: str, value: Any, why: str) -> None:
        """Propose a value, unless the field is decided."""
        if name not in self.given:
            self.config[name] = ProposedField(name, value, why)

    def correct(self, name: str, value: Any, why: str) -> None:
        """Replace a value that cannot be trained."""
        self.config[name] = ProposedField(name, value, why, needed=True)

    def search(self, name: str, form: Mapping[str, Any], why: str) -> None:
        """Propose to search a field."""
        self.parameters.append(ProposedField(name, dict(form), why))


def propose(given: Mapping[str, Any], facts: DatasetFacts | None) -> Proposal:
    """Propose a space.

    Args:
        given: What is decided already, by dotted name.
        facts: The dataset; None if it is not known.
    """
    # What is illegal decides nothing; the check of the space reports it.
    legal = {
        name: value for name, value in given.items() if name in FIELDS and not FIELDS[name].faults(value)
    }
    choice = _Choice(legal, facts)
    recipe = recipe_for(200 if facts is None else facts.episodes)
    _hold_out(choice)
    if facts is not None:
        _observe(choice, facts)
        _build(choice, facts, recipe)
    _train(choice, recipe)
    _judge(choice)
    _search(choice, recipe)
    metric, why, stop = _metric(choice)
    searched = {parameter.name for parameter in choice.parameters}
    return Proposal(
        found=() if facts is None else tuple(facts.sentences()),
        config=tuple(entry for entry in choice.config.values() if entry.name not in searched),
        parameters=tuple(choice.parameters),
        constraints=(FITS,) if searched & {"policy.horizon", "policy.n_action_steps"} else (),
        metric=metric,
        metric_why=why,
        stop_metric=stop,
        trials=recipe.trials,
        remarks=tuple(choice.remarks),
    )


# What the policy sees


def _hold_out(choice: _Choice) -> None:
    """A training that holds out nothing, LeRobot's default, cannot be compared with others by itself."""
    name, facts = "dataset.holdout_fraction", choice.facts
    simulated = choice.value("rollout.env") or (facts is not None and facts.simulator)
    if choice.given.get(name) == 0 and not simulated and (facts is None or facts.episodes > 1):
        choice.correct(name, HOLDOUT, "held-out episodes judge the policy, as no simulator is known")


def _observe(choice: _Choice, facts: DatasetFacts) -> None:
    share = HOLDOUT
    if facts.episodes < 2:
        share = 0.0
        choice.remarks.append(
            "dataset.holdout_fraction: there is a single episode, so none can be held out to judge the "
            "policy. The training loss is compared instead, which says little. Record more episodes."
        )
    elif facts.episodes * HOLDOUT < LEAST_HELD_OUT:
        share = min(0.5, round(LEAST_HELD_OUT / facts.episodes, 2))
    held_out = max(1, round(share * facts.episodes)) if share else 0
    choice.fix("dataset.holdout_fraction", share, f"{held_out} of {facts.episodes} episodes judge the policy")
    others = [camera for camera in facts.cameras if camera.shape[0] != 3]
    if others and "dataset.observations" not in choice.given:
        left = [feature.name for feature in facts.features.inputs if feature not in others]
        listed = ", ".join(f"{camera.name} ({camera.shape[0]} channels)" for camera in others)
        choice.fix("dataset.observations", left, f"without {listed}")
        choice.remarks.append(f"dataset.observations: {listed} cannot be used: the encoders take colours.")
    choice.fix("policy.n_obs_steps", 2, "two observations show the speed of a motion; as in the paper")
    cameras = [camera for camera in facts.cameras if camera not in others]
    if cameras and facts.features.environment_state_dim and "dataset.observations" not in choice.given:
        choice.remarks.append(
            f"dataset.observations: the policy sees pictures and {ENVIRONMENT_STATE}, which is known in a "
            "simulator only. List the observations that it will have when it acts."
        )
    if cameras:
        _see(choice, cameras)


def _see(choice: _Choice, cameras: list[Feature]) -> None:
    size = picture_size(cameras)
    if "policy.crop_shape" in choice.given or "policy.resize_shape" in choice.given:
        return
    if size.resize_shape is not None:
        height, width = size.resize_shape
        choice.fix("policy.resize_shape", [height, width], "height, width: all of the picture, in its aspect")
    if size.remark:
        choice.remarks.append(size.remark)
    shown = size.resize_shape or cameras[0].shape[1:]
    cropped = "×".join(str(int(side * size.crop_ratio)) for side in shown)
    choice.fix("policy.crop_ratio", size.crop_ratio, f"random crop of {cropped} in training, else its centre")
    if len(cameras) > 1:
        names = "an encoder for each camera: they see different things"
        choice.fix("policy.use_separate_rgb_encoder_per_camera", True, names)


# The network and its training


def _build(choice: _Choice, facts: DatasetFacts, recipe: Recipe) -> None:
    dims = list(recipe.down_dims if facts.cameras else recipe.down_dims[:3])
    if not facts.cameras and dims[0] > 256:
        dims = [256, 512, 1024]  # the paper's, for states
    words = f"the network's width: {facts.episodes} episodes are {recipe.words}"
    choice.fix("policy.down_dims", dims, words)
    choice.fix("policy.sampler", "DDIM", "few denoising steps, so that the robot does not wait")
    choice.fix("policy.num_inference_steps", 10, "instead of the 100 of training")


def _train(choice: _Choice, recipe: Recipe) -> None:
    facts = choice.facts
    if facts is not None:
        frames = round(facts.frames * (1 - choice.value("dataset.holdout_fraction")))
        choice.fix("train.batch_size", batch_size(frames, len(facts.cameras)), "samples per optimiser step")
        batch = choice.value("train.batch_size")
        choice.fix("train.steps", training_steps(recipe, frames, batch), "")
        steps = choice.value("train.steps")
        epochs = steps * batch / max(1, frames)
        words = f"about {epochs:,.0f} epochs of {frames:,} frames"
        if "train.steps" in choice.config:
            choice.fix("train.steps", steps, words)
        else:
            choice.remarks.append(f"train.steps: {steps:,} steps of {batch} samples are {words}.")
        if facts.cameras:
            choice.fix("train.precision", "bf16", "half the memory; fp32 on a CPU, or if the GPU lacks it")
    if choice.value("policy.pretrained_backbone_weights") and choice.value("policy.use_group_norm"):
        choice.correct("policy.use_group_norm", False, "pretrained weights need the BatchNorm they had")
    noise = choice.value("policy.num_train_timesteps")
    if choice.value("eval.num_inference_steps") > noise:
        choice.correct("eval.num_inference_steps", noise, f"at most the {noise} timesteps of training")
    steps = choice.value("train.steps")
    if choice.value("lr_scheduler.warmup_steps") >= steps:
        warmup = max(0, min(WARMUP, steps // 10))
        choice.correct("lr_scheduler.warmup_steps", warmup, f"the warmup must end before step {steps:,}")
    every = max(1, steps // EVALUATIONS)
    if choice.value("train.eval_every") > steps:
        choice.correct("train.eval_every", every, f"an evaluation within the {steps:,} steps")
    choice.fix("train.eval_every", every, "steps between evaluations")
    choice.fix("train.log_every", min(100, every), "steps between reports of loss and gradient norm")


# What judges it


def _judge(choice: _Choice) -> None:
    facts = choice.facts
    if facts is not None and facts.simulator is not None:
        choice.fix("rollout.env", facts.simulator, "the simulator of this task judges the policy")
        if choice.value("rollout.env") is not None:
            choice.fix("rollout.episodes", 32, "episodes per evaluation, the same starts for every trial")
            choice.fix("rollout.final_episodes", 64, "more at the end: the interval shrinks")


def _metric(choice: _Choice) -> tuple[str, str, str]:
    if choice.value("rollout.env") is not None:
        why = "share of the episodes that reach the goal"
        return "rollout/success_rate", why, "rollout/avg_max_reward"
    if not choice.value("dataset.holdout_fraction"):
        return "train/loss", "no episode is held out; compares nothing across horizons", "train/loss"
    why = "error of the actions on held-out episodes: no simulator is known"
    return "eval/action_mse", why, "eval/action_mse"


# What is searched


def _search(choice: _Choice, recipe: Recipe) -> None:
    lr = choice.given.get("optimizer.lr")
    if lr:
        bounds = {"min": _short(lr / AROUND), "max": _short(lr * AROUND), "log": True}
        choice.search("optimizer.lr", bounds, f"first: decides most; yours is {lr:g}")
    else:
        bounds = {"min": LR[0], "max": LR[1], "log": True}
        choice.search("optimizer.lr", bounds, "first: decides most; the paper's is 1e-4")
    horizons = _horizons(choice)
    if len(horizons) > 1:
        choice.search(
            "policy.horizon",
            {"values": horizons},
            f"second: actions predicted at once{_times(choice, horizons)}",
        )
    elif "policy.horizon" not in choice.given:
        choice.fix("policy.horizon", horizons[0], f"actions predicted at once{_times(choice, horizons)}")
    _search_actions(choice, horizons)
    kinds: list[Any] = ["epsilon", "sample"]
    given = choice.given.get("policy.prediction_type")
    if given not in (None, *kinds):
        kinds = [given, *kinds]
    choice.search("policy.prediction_type", {"values": kinds}, "predict the noise, or the actions")
    decay = choice.given.get("optimizer.weight_decay")
    low, high = recipe.weight_decay
    if decay:
        low, high = min(low, decay), max(high, decay)
    words = "against memorising the demonstrations" + (f"; yours is {decay:g}" if decay else "")
    choice.search("optimizer.weight_decay", {"min": low, "max": high, "log": True}, words)


def _horizons(choice: _Choice) -> list[int]:
    """Horizons that the U-Net allows: around the user's, or by their time."""
    base = 2 ** len(choice.value("policy.down_dims"))
    steps = int(choice.value("policy.n_obs_steps"))
    least = choice.value("eval.window_steps") + steps - 1
    given, facts = choice.given.get("policy.horizon"), choice.facts
    kept = choice.given.get("policy.n_action_steps")
    if kept and choice.value("rollout.env") is None:
        least = max(least, kept + steps - 1)
    if given:
        wanted = [given / 2, given, given * 2]
    elif facts is not None:
        wanted = [facts.fps * SHORTEST_S * 2**number for number in range(HORIZONS)]
    else:
        wanted = [FIELDS["policy.horizon"].default, 2 * FIELDS["policy.horizon"].default]
    # A window beyond the end of its episode repeats the last action.
    most = LONGEST_HORIZON if facts is None else min(LONGEST_HORIZON, facts.median_steps)
    smallest = -(-least // base) * base
    legal = {max(smallest, base * round(n / base)) for n in wanted}
    fitting = sorted(n for n in legal if n <= most or n == given)
    return fitting or [smallest]


def _times(choice: _Choice, horizons: list[int]) -> str:
    facts = choice.facts
    return "" if facts is None else f", {', '.join(facts.seconds(n) for n in horizons)}"


def _search_actions(choice: _Choice, horizons: list[int]) -> None:
    """Search how many actions are executed if rollouts can judge it; otherwise choose a number."""
    name, steps = "policy.n_action_steps", int(choice.value("policy.n_obs_steps"))
    least, most = (horizon - steps + 1 for horizon in (horizons[0], horizons[-1]))
    given, facts = choice.given.get(name), choice.facts
    if choice.value("rollout.env") is not None:
        top = max(1, min(most, max(horizons[-1] // 2, given or 1)))
        low = max(1, min(least, top // 8))
        yours = f"; yours is {given}" if given else ""
        time = "" if facts is None else f" ({facts.seconds(low)} to {facts.seconds(top)})"
        choice.search(
            name,
            {"min": low, "max": max(top, low)},
            f"third: of these, executed before looking again{time}{yours}",
        )
        return
    if given and given > least:
        words = f"the shortest horizon, {horizons[0]}, allows {least}"
        choice.correct(name, least, words)
    half = max(1, min(least, horizons[0] // 2))
    choice.fix(
        name, half, f"executed before looking again{'' if facts is None else ', ' + facts.seconds(half)}"
    )
    choice.remarks.append(
        f"{name} is not searched: without a simulator only the robot can judge it. It can be changed on "
        "the trained policy, without training again."
    )


def _short(number: float) -> float:
    return float(f"{number:.2g}")
