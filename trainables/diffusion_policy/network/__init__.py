"""The networks, and their loss and predictions.

- ``policy``: `DiffusionPolicy`: loss and predicted actions
- ``unet``, ``vision``, ``noise``, ``normalize``: its parts
- ``shapes``: names, shapes and counts of weights without torch
- ``gpu_need``: work and memory of a training step without torch
"""
