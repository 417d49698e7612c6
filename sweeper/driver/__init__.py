"""The process that runs a sweep, in the order in which things happen.

- ``launch``: checks, connects, runs, prints the result
- ``resume``: continues a sweep whose driver is gone
- ``preflight``: dataset, environment, disk and memory, checked before anything is created
- ``opening``: the sweep's folder is found, refused or cleared; study, journal and tracker are opened together
- ``run``: the loop around Tune: run, pause, continue, end
- ``callbacks``: what Tune calls: stopper, callbacks, why a trial failed
- ``recorder``: records every report and every end once: journal, then study, then MLflow
- ``retry``: whether an interrupted trial is retried, and with which configuration
- ``requests``: answers requests from other processes
- ``ending``: when a sweep stops before its trials are used up
- ``signals``: Ctrl-C and SIGTERM
- ``closing``: the final status, and closing a sweep that a dead driver left open
"""
