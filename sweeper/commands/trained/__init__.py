"""Commands that examine trained policies after the search.

- ``finalists``: confirm, compare
- ``inspection``: eval
- ``bench``: bench
- ``tuning``: tune
- ``serving``: serve
- ``settings``: the inference setting that these commands use
- ``judging``: judge
- ``delivery``: what was found, to MLflow
"""
