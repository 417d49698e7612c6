"""What a sweep is. Needs the standard library only, outside ``space_file/``.

- ``sweep``: `SweepSpec` and its parts
- ``space``: parameters and constraints
- ``alerts``: who hears of a sweep
- ``cost``: prices of GPUs and CPUs
- ``differences``: what makes it another sweep
- ``taken``: what a sweep takes from earlier ones
- ``expressions``: the language of conditions and constraints
- ``search_methods``: what each search method can search
- ``sampler_options``: the options of each search method and their defaults
- ``stopper_options``: the options of early stopping and their defaults
- ``space_file/``: how a space file becomes a `SweepSpec`
"""
