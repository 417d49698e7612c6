"""MLflow: one parent run for a sweep, one child run for each trial.

`tracker` sends the journal from a thread, `runs` says what becomes of an event, `state` how far it was sent,
`client` how MLflow's own client is used, and `pages` where MLflow shows the runs.
"""

from sweeper.layout import DATABASE, STATE
from sweeper.tracking.state import Delivery, read_state
from sweeper.tracking.tracker import Tracker, tracking_uri

__all__ = [
    "DATABASE",
    "STATE",
    "Delivery",
    "Tracker",
    "read_state",
    "tracking_uri",
]
