"""Starting from a checkpoint.

- ``resolve``: a flat configuration, completed from its checkpoint, checked, built
- ``starting_point``: the fields that the checkpoint of ``policy.path`` decides, and those that may change
- ``compatibility``: how its weights fit the configuration and the dataset
- ``warm_start``: its weights, read and loaded
"""
