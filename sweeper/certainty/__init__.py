"""How sure the results of a sweep are: read from the records of episodes beside its trials.

- ``standing``: the interval of each trial's objective, and which trials may be the best.
- ``requirement``: conditions on the best trial, for scripts.
"""
