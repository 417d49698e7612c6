"""The configuration. Standard library only.

- ``sections``: the fields
- ``presets``: named starts
- ``clashes``: values that cannot be combined
- ``diffusion_config``: `DiffusionConfig`, `FIELDS`, `ALIASES`, flat configurations
"""
