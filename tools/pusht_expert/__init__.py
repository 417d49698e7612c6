"""The planner that made the Push-T demonstrations. Nothing imports it at run time.

- ``generate``: ``python -m tools.pusht_expert.generate`` makes the table of demonstrations
- ``planner``: the expert: which push is next
- ``routes``: ways around the T
- ``pushes``: pushes and where they move the T
- ``physics``: the simulator's physics without its pictures
"""
