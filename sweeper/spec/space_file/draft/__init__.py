"""A first space file, from what the user has: a file of another tool, a command, a dataset (`sweeper init`).

- ``content``: the draft
- ``from_tools``: from a file of another tool, with the tables by which such files are checked
- ``pasted_command``: from a command of LeRobot
- ``complete``: what the source does not decide, as the trainable proposes it
- ``accept``: until `check` accepts it
- ``write``: its text
"""
