"""Trained policies with other inference settings: nothing here trains.

- ``settings``: which settings a policy can have, and the policy that has one.
- ``opened``: a checkpoint, opened to be evaluated: rollouts, held-out action error, latency.
"""
