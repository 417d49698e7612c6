"""Diffusion Policy (Chi et al., arXiv 2303.04137): configuration, network, training, checkpoints."""

from trainables.diffusion_policy.trainable import TRAINABLE

__all__ = ["TRAINABLE"]
