"""The configuration. Standard library only.

- ``sections``: the fields
- ``presets``: named starts
- ``backbones``: names and files of pretrained weights of the encoder
- ``clashes``: values that cannot be combined
- ``diffusion_config``: `DiffusionConfig`, `FIELDS`, `ALIASES`, flat configurations
"""
