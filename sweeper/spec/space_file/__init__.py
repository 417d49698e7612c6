"""How a space file becomes a `SweepSpec`.

- ``load``: `load_spec`; the spaces that come with the package
- ``yaml_nodes``: YAML with line numbers; ``key=value``
- ``fields``: what each section may contain, and whether a value is legal
- ``document``: the file being read: mapping, faults, notes
- ``habits``: the words of other tools, and what they are called here
- ``other_forms``: parameters as other tools write them
- ``translate``: names and forms of other tools, each a fault with what to write
- ``overrides``: what the command line changes
- ``read_space``: config, parameters, constraints
- ``read_sections``: all other sections
- ``combinations``: whole configurations, checked by the trainable
"""
