"""The report of a sweep.

- ``write``: reads a sweep and writes its report
- ``answer``: the first screen: which policy, how sure, which parameters matter, how fast, what it cost
- ``standings``: the trials with intervals, and which of them are not told apart from the best
- ``sections``: ranking, settings, parameters, failures, data and versions
- ``media``: films and pictures, embedded or linked
- ``figures``: the figures, Optuna's own if it has them
- ``shown_study``: the sweep as an Optuna study in memory, for these figures
- ``page``: the frame of the page: styles, and the script that draws the figures
"""
