"""The networks, and what is computed with them.

- ``policy``: `DiffusionPolicy`: loss and predicted actions
- ``unet``, ``vision``, ``noise``, ``normalize``: its parts
- ``shapes``: names, shapes and counts of weights without torch
"""
