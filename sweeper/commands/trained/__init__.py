"""Commands that examine trained policies after the search.

- ``finalists``: confirm, compare
- ``inspection``: eval
- ``tuning``: tune
- ``delivery``: what was found, to MLflow
"""
