"""Trained policies with other inference settings, without training.

- ``opened``: a checkpoint opened for evaluation: rollouts, held-out action error, latency.
- ``exported``: an opened policy, exported to other runtimes and compared with them.
"""
