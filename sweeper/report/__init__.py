"""Pages for a browser: each is one file that needs no network.

- ``sweep/``: the report of a sweep
- ``remake``: writes it in a process of its own, with a time limit: for drivers and after a confirmation
- ``dashboard``: Optuna's own pages for the study, served on this machine
- ``markup``: HTML in which every text is escaped
- ``inspection``: one policy, looked into.
- ``charts``: small charts as SVG.
- ``style``: how pages look, in light and dark.
"""
