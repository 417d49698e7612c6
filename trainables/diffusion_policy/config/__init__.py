"""The configuration. Standard library only.

- ``sections``: the fields
- ``clashes``: values that cannot be combined
- ``diffusion_config``: `DiffusionConfig`, `FIELDS`, `ALIASES`, flat configurations
"""
