"""The commands: one function for each. `sweeper.cli` imports a module when one of its commands runs.

- ``options``: arguments and options that several commands share
- ``sweeps``: check, launch, demo, schema
- ``steering``: status, watch, logs, pause, resume, stop, cancel, budget
- ``results``: results, list, sync, ui
- ``checkpoints``: export
- ``data``: data check, data show, data fix
- ``cache``: cache
- ``trained``: confirm, compare, eval, tune
- ``jobs``: jobs; submitting a sweep to a job server
- ``on_cluster``: ``--cluster FILE``, any command on a cluster's head
- ``doctor``: doctor
"""
