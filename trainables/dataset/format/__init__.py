"""LeRobot's dataset files.

- ``schema``: features as ``info.json`` states them
- ``metadata``: the ``meta/`` folder of every version
- ``tables``: parquet files
- ``decode``: frames of video files
- ``recorded``: numbers as they were recorded
- ``selection``: chosen episodes, renamed features, what fits together
- ``write``: writes a dataset
"""
