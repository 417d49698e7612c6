"""A module that registers an environment under a namespace that is not its name."""

import gymnasium

gymnasium.register("Other-Name/Reach-v0", entry_point="reach_simulator:Reach", max_episode_steps=5)
