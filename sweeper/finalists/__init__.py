"""What is done with trained policies after the search: evaluate, choose inference settings, confirm.

- ``candidates``: which policies are meant: trials of sweeps, or checkpoints.
- ``evaluators``: Ray actors that hold policies open and evaluate them, several at once.
- ``recording``: a sweep's journal, opened to record what was found after the search.
"""
