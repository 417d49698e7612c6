"""How a space file becomes a `SweepSpec`.

- ``load``: `load_spec`; the spaces that come with the package
- ``yaml_nodes``: YAML with line numbers; ``key=value``
- ``fields``: what each section may contain, and whether a value is legal
- ``document``: the file being read: mapping, faults, notes
- ``overrides``: what the command line changes
- ``read_space``: config, parameters, constraints
- ``read_sections``: all other sections
- ``combinations``: whole configurations, checked by the trainable
"""
