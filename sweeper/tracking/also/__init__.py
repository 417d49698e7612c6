"""Trackers beside MLflow: Weights & Biases, Trackio and TensorBoard, fed from the journal.

Each has its own process: ``python -m sweeper.tracking.also FOLDER TRACKER``. What it prints goes to a log and
not over the live table, and a fault in it never reaches the driver.

- ``feeder``: starts and ends the process of each tracker, for the driver and for `sweeper sync`
- ``feed``: reads the journal and passes it to a tracker, each event once
- ``runs``: the runs that a tracker is given: names, groups, tags, notes
- ``wandb_runs``, ``trackio_runs``, ``tensorboard_files``: the trackers
"""
