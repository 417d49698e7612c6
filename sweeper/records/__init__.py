"""What is recorded of a sweep, and what is read back. Needs neither Ray, Optuna nor MLflow.

- ``journal``: appends and reads
- ``events``: the kinds of event: documentation and checks of each
- ``sweep_state``: the state of a sweep, from its journal; finds and reads sweeps
- ``summary``: the same without the series of trials, through an index; lists sweeps
- ``trial_state``: the state of a trial
- ``ranking``: which trials are better
- ``forecast``: GPU-hours and time, used so far and expected
- ``checkpoints``: which checkpoints are kept, which one a name means, and exporting it
"""
