"""The records of a sweep: writing and reading them. Needs neither Ray, Optuna nor MLflow.

- ``journal``: appends and reads
- ``events``: the kinds of event: documentation and checks of each
- ``sweep_state``: the state of a sweep, from its journal; finds and reads sweeps
- ``summary``: the same without the series of trials, through an index; lists sweeps
- ``trial_state``: the state of a trial
- ``ranking``: the order of the trials
- ``earlier``: what a sweep takes from earlier sweeps
- ``forecast``: GPU-hours and time, used so far and expected
- ``spending``: what a sweep costs in money
- ``checkpoints``: which checkpoints are kept, and finding and exporting one
"""
