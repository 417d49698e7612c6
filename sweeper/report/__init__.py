"""Pages for a browser: each is one file that needs no network.

- ``inspection``: one policy, looked into.
- ``charts``: small charts as SVG.
- ``style``: how pages look, in light and dark.
"""
