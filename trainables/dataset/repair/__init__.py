"""Write a repaired copy of a dataset: certain repairs are made, the rest is listed with its reason.

The original is only read. The steps follow each other in this order:

- ``repair``: all steps; the copy is written beside its place and renamed
- ``described``: info.json: version, frame rate, and the features as the files have them
- ``evidence``: what files show of frame rates, columns and cameras
- ``rows``: which rows are an episode, and in which order
- ``clips``: which frames of a video are those of an episode
- ``idle``: ends in which the robot stands still
- ``numbering``: tasks, timestamps and numbers of the copy's rows
- ``records``: totals, and what else the metadata files contain
- ``measure``: statistics, compared with the recorded ones
- ``copied``: the files of the copy
- ``log``: changes, and what remains; ``recording``: an episode of the copy
"""
