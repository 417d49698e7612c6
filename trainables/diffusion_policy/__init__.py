"""Diffusion Policy (Chi et al., arXiv 2303.04137): configuration, network, training, checkpoints."""
