"""The configuration. Standard library only.

- ``sections``: the fields
- ``clashes``: values that cannot go together
- ``diffusion_config``: `DiffusionConfig`, `FIELDS`, `ALIASES`, flat configurations
"""
