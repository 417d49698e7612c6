"""Which trial is next, and which one is stopped early.

- ``study``: the search of a sweep: suggests trials, receives reports and results
- ``study_file``: the trials on the disk, an Optuna study
- ``suggester``: what to try next: the sampler and its memory
- ``sampler``: Optuna's sampler, and parameters as Optuna stores them
- ``suggestion``: a trial as the study hands it out
- ``searcher``: the study as a Tune searcher
- ``early_stopping``: early stopping as a Tune scheduler that follows the journal
- ``stopping_rules``: the seam of the rules, and ASHA
- ``pruners``: Optuna's pruners as rules
"""
