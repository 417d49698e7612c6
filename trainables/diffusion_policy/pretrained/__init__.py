"""Reading checkpoints in any format: find, describe, load.

- ``find``: the checkpoint of a path, a trial or a hub name
- ``pretrained_config``: a checkpoint's configuration
- ``read_config``: reads it from any format
- ``inferred``: the configuration that the shapes of the weights show
- ``lerobot_config``: LeRobot's ``config.json`` as this project's fields
- ``lerobot_processors``: LeRobot's processor files
- ``original_ckpt``: ``.ckpt`` files of the original code
- ``weights``: weights and statistics, and a policy with them
- ``read``: `read_checkpoint`, `load`
"""
