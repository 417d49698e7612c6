"""The networks, and their loss and predictions.

- ``policy``: `DiffusionPolicy`: loss and predicted actions
- ``unet``, ``vision``, ``noise``, ``normalize``: its parts
- ``shapes``: names, shapes and counts of weights without torch
"""
