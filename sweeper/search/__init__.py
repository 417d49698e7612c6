"""Which trial is next, and which one is stopped early.

- ``study``: the Optuna study: ask and tell
- ``sampler``: Optuna's sampler, and parameters as Optuna stores them
- ``suggestion``: a trial as the study hands it out
- ``searcher``: the study as a Tune searcher
- ``early_stopping``: ASHA and the median rule as a Tune scheduler
"""
