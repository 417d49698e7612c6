"""The networks, and their loss and predictions.

- ``policy``: `DiffusionPolicy`: loss and predicted actions
- ``unet``, ``vision``, ``noise``, ``normalize``: its parts
- ``flow``: the path and the solvers of flow matching, of which ``noise`` makes a process
- ``backbone_file``: the file with the pretrained weights of an encoder, without torch
- ``shapes``: names, shapes and counts of weights without torch
- ``gpu_need``: work and memory of a training step without torch
"""
