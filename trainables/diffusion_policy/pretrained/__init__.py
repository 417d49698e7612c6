"""Checkpoints that are read, in any format: find, describe, load.

- ``find``: which checkpoint a path, a trial or a hub name means
- ``pretrained_config``: what a checkpoint says of itself
- ``read_config``: reads that, whatever the format
- ``lerobot_config``: LeRobot's ``config.json`` in our terms
- ``lerobot_processors``: LeRobot's processor files
- ``original_ckpt``: ``.ckpt`` files of the original code
- ``weights``: weights and statistics, and the policy that has them
- ``read``: `read_checkpoint`, `load`
"""
