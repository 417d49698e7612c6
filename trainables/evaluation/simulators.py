"""Simulators behind one interface: seeded episodes whose observations have LeRobot's names.

Three ways to name one, all in ``rollout.env``:

- ``gym_pusht/PushT-v0``: state, keypoints and image at once, as the policy needs them.
- any other gymnasium id: the observation must be a Dict with LeRobot's keys. ``agent_pos`` becomes
  ``observation.state``, ``environment_state`` becomes ``observation.environment_state``; ``pixels`` becomes
  ``observation.image``, or ``observation.images.<name>`` if it is a Dict of cameras. Names that begin with
  ``observation.`` stay. For an id ``package/Name-v0``, ``package`` is imported first, so that it can register
  itself; for ``module:Any/Name-v0``, ``module`` is.
- ``module:attribute``: a callable that takes the ``PolicyFeatures`` and returns an ``Environment``, or a
  gymnasium environment as above.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainables.environment import FIELD, IMAGE, Environment, Observation, SimulatorError, Step
from trainables.features import ENVIRONMENT_STATE, STATE, FeatureType, PolicyFeatures
from trainables.interface import Fault

__all__ = [
    "FAILURES",
    "GymnasiumEnvironment",
    "environment_faults",
    "make_environment",
    "make_known",
    "release",
]

PUSHT = "gym_pusht/PushT-v0"
FAILURES = (Exception, SystemExit)
"""What a simulator that fails may raise: some call ``sys.exit``."""

WAY_TO_DRAW = (
    "On a machine without a display set MUJOCO_GL=egl (Debian: libegl1), or MUJOCO_GL=osmesa (libosmesa6), "
    "before the command."
)

log = logging.getLogger(__name__)


class GymnasiumEnvironment:
    """A gymnasium environment with Dict observations in LeRobot's terms.

    Success is ``info["is_success"]`` or ``info["success"]``, and False if neither exists.

    Attributes:
        action_shape: Shape of an action.
        max_steps: The environment's step limit, or None.
        fps: ``render_fps`` of the environment's metadata, 10 if it has none.
    """

    def __init__(self, env: Any, max_steps: int | None = None) -> None:
        self._env = env
        space = env.action_space
        if not hasattr(space, "low") or len(space.shape) != 1:
            raise SimulatorError(f"{FIELD}: the action space {space} is not a vector of numbers (Box).")
        self.action_shape: tuple[int, ...] = tuple(space.shape)
        spec = getattr(env, "spec", None)
        registered = None if spec is None else spec.max_episode_steps
        self.max_steps: int | None = max_steps if max_steps is not None else registered
        self.fps = float(env.metadata.get("render_fps") or 10)

    def reset(self, seed: int) -> Observation:
        """Start the episode that belongs to ``seed``."""
        observation, _info = self._env.reset(seed=seed)
        return _lerobot_names(observation)

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        """Execute one action (A,) as it is, like LeRobot.

        The limits of the action space are often wrong: gym-aloha's are -1 and 1, its actions are angles in
        radians beyond them.
        """
        observation, reward, terminated, truncated, info = self._env.step(np.asarray(action))
        success = bool(np.any(info.get("is_success", info.get("success", False))))
        seen = _lerobot_names(observation) if observe else None
        return Step(seen, float(reward), bool(terminated or truncated), success)

    def frame(self) -> np.ndarray:
        """Picture of the current state, uint8 (H, W, 3)."""
        picture = self._env.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise SimulatorError(
                f"{FIELD}: render() returned {type(picture).__name__} instead of an RGB array.\n"
                "Make the environment with render_mode='rgb_array', or set rollout.video: never."
            )
        return np.ascontiguousarray(picture[..., :3], dtype=np.uint8)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def release(environment: Environment) -> None:
    """Close an environment that is not needed any more; its results exist, so an error is only logged."""
    try:
        environment.close()
    except FAILURES:
        log.warning("rollout.env: a simulator could not be closed", exc_info=True)


def make_environment(env_id: str, features: PolicyFeatures) -> Environment:
    """Create the simulator called ``env_id``, with observations for a policy of ``features``.

    Raises:
        SimulatorError: If the package is missing, the id is unknown or the environment cannot be created.
    """
    if env_id == PUSHT:
        _import_package("gym_pusht", env_id)
        from trainables.pusht.environment import PushTEnvironment

        return PushTEnvironment(features)
    module_name, separator, attribute = env_id.partition(":")
    if separator and attribute.isidentifier():
        return _from_attribute(env_id, module_name, attribute, features)
    return _from_gymnasium(env_id, features)


def make_known(env_id: str) -> str:
    """Import the package of a gymnasium id, so that it can register itself.

    Returns:
        The id without a module: the name in gymnasium's registry, if it is there.

    Raises:
        SimulatorError: If the package cannot be imported.
    """
    import gymnasium

    module_name, separator, name = env_id.rpartition(":")
    namespace = name.partition("/")[0] if "/" in name else ""
    if separator:
        _import_package(module_name, env_id)
    elif namespace and not any(known.startswith(f"{namespace}/") for known in gymnasium.registry):
        _import_package(namespace, env_id)
    return name


def environment_faults(
    env_id: str, features: PolicyFeatures, max_steps: int | None = None, *, filmed: bool = False
) -> list[Fault]:
    """List what prevents rollouts of a policy of ``features`` in ``env_id``, which is created once.

    Args:
        env_id: Value of ``rollout.env``.
        features: What the policy sees and does.
        max_steps: Value of ``rollout.max_steps``.
        filmed: Whether it must be possible to draw the environment, too; one picture is drawn.
    """
    try:
        environment = make_environment(env_id, features)
    except SimulatorError as error:
        problem, _, remedy = str(error).removeprefix(f"{FIELD}: ").partition("\n")
        return [Fault(FIELD, problem, remedy)]
    try:
        faults = _step_limit_faults(env_id, environment, max_steps)
        faults += _action_faults(env_id, environment, features)
        observation = environment.reset(0)
        faults += _observation_faults(env_id, observation, features)
        if filmed:
            faults += _film_faults(env_id, environment)
    except FAILURES as error:  # any error of a foreign environment is a fault of the input
        problem = f"{env_id!r} cannot be reset: {type(error).__name__}: {error}."
        return [Fault(FIELD, problem, _way_to_reset(env_id, features, str(error)))]
    finally:
        release(environment)
    return faults


def _way_to_reset(env_id: str, features: PolicyFeatures, error: str) -> str:
    if _is_about_drawing(error):
        return WAY_TO_DRAW
    remedy = "Correct the environment, or write an adapter and name it as module:attribute."
    if features.cameras or ":" in env_id:
        return remedy
    return f"The policy has no camera, and some environments work only with one. {remedy}"


def _film_faults(env_id: str, environment: Environment) -> list[Fault]:
    try:
        environment.frame()
    except SimulatorError as error:
        problem, _, remedy = str(error).removeprefix(f"{FIELD}: ").partition("\n")
        return [Fault("rollout.video", f"{env_id!r} cannot be filmed: {problem}", remedy)]
    except FAILURES as error:
        problem = f"{env_id!r} cannot be filmed: {type(error).__name__}: {str(error).rstrip('.')}."
        way = f"{WAY_TO_DRAW} " if _is_about_drawing(str(error)) else ""
        return [Fault("rollout.video", problem, f"{way}Without films: rollout.video: never.")]
    return []


def _is_about_drawing(error: str) -> bool:
    return any(word in error for word in ("OpenGL", "EGL", "GLFW", "DISPLAY", "MUJOCO_GL", "OSMesa", "glGet"))


def _lerobot_names(observation: Any) -> dict[str, np.ndarray]:
    if not isinstance(observation, Mapping):
        raise SimulatorError(
            f"{FIELD}: the observation is {type(observation).__name__}, not a Dict with agent_pos, pixels or "
            "environment_state.\nWrite an adapter and name it as module:attribute."
        )
    named: dict[str, np.ndarray] = {}
    for key, value in observation.items():
        if key == "agent_pos":
            named[STATE] = np.asarray(value, dtype=np.float32)
        elif key == "environment_state":
            named[ENVIRONMENT_STATE] = np.asarray(value, dtype=np.float32)
        elif key == "pixels" and isinstance(value, Mapping):
            named |= {f"{IMAGE}s.{camera}": _channels_first(image) for camera, image in value.items()}
        elif key == "pixels":
            named[IMAGE] = _channels_first(value)
        elif key.startswith("observation."):
            array = np.asarray(value)
            named[key] = _channels_first(array) if array.ndim == 3 else array.astype(np.float32)
    return named


def _channels_first(image_HWC: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.transpose(np.asarray(image_HWC, dtype=np.uint8), (2, 0, 1)))


def _import_package(package: str, env_id: str) -> None:
    try:
        with warnings.catch_warnings():
            # Simulators import old packages; their deprecation warnings do not concern the user.
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except ImportError as error:
        if error.name is not None and error.name.partition(".")[0] != package.partition(".")[0]:
            problem = f"{env_id!r}: the package {package} cannot be imported: {error}."
        else:
            problem = f"{env_id!r} needs the package {package}, which is not installed."
        raise SimulatorError(f"{FIELD}: {problem}\n{_way_to_install(env_id)}") from error


def _way_to_install(env_id: str) -> str:
    if env_id == PUSHT:
        return f"pip install 'diffusion-policy-sweeper[pusht]', or set {FIELD}: null."
    remedy = f"pip install it, or set {FIELD}: null."
    if ":" not in env_id:
        remedy += f" If a module of another name registers {env_id}, write module:{env_id}."
    return remedy


def _from_attribute(env_id: str, module_name: str, attribute: str, features: PolicyFeatures) -> Environment:
    try:
        make: Callable[[PolicyFeatures], Any] = getattr(importlib.import_module(module_name), attribute)
        made = make(features)
    except FAILURES as error:
        raise SimulatorError(_cannot_be_made(env_id, error)) from error
    if isinstance(made, Environment):
        return made
    import gymnasium

    if isinstance(made, gymnasium.Env):
        return GymnasiumEnvironment(made)
    wanted = "action_shape, max_steps, fps, reset, step, frame and close"
    raise SimulatorError(
        f"{FIELD}: {env_id!r} returned {type(made).__name__}.\n"
        f"It must return a gymnasium environment, or an object with {wanted}."
    )


def _from_gymnasium(env_id: str, features: PolicyFeatures) -> Environment:
    import gymnasium

    name = make_known(env_id)
    if name not in gymnasium.registry:
        near = difflib.get_close_matches(name, gymnasium.registry, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]!r}?" if near else "Name a registered id, or module:attribute."
        raise SimulatorError(f"{FIELD}: gymnasium has no environment {env_id!r}.\n{hint}")
    try:
        spec = gymnasium.spec(name)
        # The rollout counts the steps itself (rollout.max_steps may also be longer), and the checks of every
        # step are for authors of environments.
        options = {"max_episode_steps": -1, "disable_env_checker": True, **_obs_type(spec, features)}
        env = _with_rendering(spec, options)
    except FAILURES as error:
        raise SimulatorError(_cannot_be_made(env_id, error)) from error
    return GymnasiumEnvironment(env, spec.max_episode_steps)


def _cannot_be_made(env_id: str, error: BaseException) -> str:
    remedy = f"\n{WAY_TO_DRAW}" if _is_about_drawing(str(error)) else ""
    return f"{FIELD}: {env_id!r} cannot be created: {type(error).__name__}: {error}.{remedy}"


def _with_rendering(spec: Any, options: dict[str, Any]) -> Any:
    import gymnasium

    try:
        return gymnasium.make(spec, render_mode="rgb_array", **options)
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        return gymnasium.make(spec, **options)


def _obs_type(spec: Any, features: PolicyFeatures) -> dict[str, str]:
    """The environments that come with LeRobot choose between vectors and images by ``obs_type``."""
    if "obs_type" not in spec.kwargs:
        return {}
    return {"obs_type": "pixels_agent_pos" if features.cameras else "environment_state_agent_pos"}


def _step_limit_faults(env_id: str, environment: Environment, max_steps: int | None) -> list[Fault]:
    if max_steps is not None or environment.max_steps is not None:
        return []
    return [Fault("rollout.max_steps", f"is null, and {env_id!r} has no limit of its own.", "Set a number.")]


def _action_faults(env_id: str, environment: Environment, features: PolicyFeatures) -> list[Fault]:
    if environment.action_shape == features.action.shape:
        return []
    takes, has = environment.action_shape, features.action.shape
    problem = f"{env_id!r} takes actions of shape {takes}; the dataset's have {has}."
    return [Fault(FIELD, problem, "Name the environment that the demonstrations come from.")]


def _observation_faults(env_id: str, observation: Observation, features: PolicyFeatures) -> list[Fault]:
    faults = []
    for feature in features.inputs:
        seen = observation.get(feature.name)
        if seen is None:
            given = ", ".join(sorted(observation)) or "nothing"
            remedy = (
                f"It returns {given}: choose among these with dataset.observations, or set {FIELD}: null."
            )
            faults.append(Fault(FIELD, f"{env_id!r} does not return {feature.name}.", remedy))
        elif tuple(seen.shape) != feature.shape:
            kind = "an image (C, H, W)" if feature.type is FeatureType.VISUAL else "a vector"
            size = tuple(seen.shape)
            problem = (
                f"{env_id!r} returns {feature.name} as {kind} of {size}; the dataset has {feature.shape}."
            )
            faults.append(
                Fault(FIELD, problem, "The sizes must be equal: name the environment of the demonstrations.")
            )
    return faults
