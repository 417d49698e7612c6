"""Trained policies with other inference settings: nothing here trains.

- ``opened``: a checkpoint, opened to be evaluated: rollouts, held-out action error, latency.
"""
