"""Trained policies with other inference settings, without training.

- ``opened``: a checkpoint opened for evaluation: rollouts, held-out action error, latency.
"""
