"""MLflow: one parent run for a sweep, one child run for each trial.

- ``tracker``: the thread that sends the journal
- ``runs``: what each event becomes in MLflow
- ``description``: the description of a sweep's run
- ``state``: how much of the journal has been sent
- ``client``: MLflow's client: retries, legal names, outages
- ``urls``: addresses of MLflow's pages
- ``server``: MLflow's pages served on this machine
- ``sync``: uploads what MLflow is missing
- ``also/``: trackers beside MLflow
"""
