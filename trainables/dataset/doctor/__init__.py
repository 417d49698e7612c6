"""What is wrong with a dataset, before anything is trained on it.

Every threshold is a named constant with its reason; a sound dataset has no finding.

- ``preflight``: opens a dataset and checks it quickly
- ``quick``: what every launch checks: metadata, numbers, the containers of the videos; nothing is decoded
- ``examination``: the whole doctor: what ``quick`` finds, and what numbers and a sample of the pictures show
- ``salvage``: opens what can be read of a dataset that cannot be opened as a whole
- ``bookkeeping``, ``collection``, ``folder``, ``pictures`` (with ``looks``), ``videos``: one kind of check
  each
- ``signals/``: checks of states and actions
- ``wording``: sentences of findings
"""
