"""One trial, on the machine that trains it. Knows neither `sweeper.spec` nor `sweeper.records`.

- ``run``: Tune's function: starts a worker group
- ``worker``: one process of the group: trains and reports
- ``trainer``: a Ray Train trainer without extra processes, and its process group (all private names of Ray)
- ``placement``: placement groups: waits for a turn, names and frees them
- ``exchange``: what worker and driver leave for each other: reports, progress, stop requests
- ``failure``: why a trial failed
- ``watchdog``: ends a worker that hangs
- ``system_metrics``: load of CPU, memory and GPUs
"""
