"""Simulated sweeps that compare search methods and early stopping on recorded learning curves.

- ``curves``: what simulated trials report: recorded learning curves, or curves like them
- ``sweeps``: a simulated sweep, with the sampler and the rules of a real one
- ``promotion``: trials that pause at a rung and continue if they are among the best there
- ``comparison``: means, paired differences and their intervals
"""
