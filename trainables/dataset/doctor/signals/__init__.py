"""What states and actions show, without a picture.

- ``numbers``: dead dimensions, ranges that a few values stretch, few levels
- ``motion``: standing still at the ends, jumps, angles that wrap, the same episode twice
- ``stretches``: actions that freeze, dimensions that stand still in most episodes, values pinned at a limit
- ``following``: whether the state of a joint follows its action, with what delay, and in the same unit
- ``pairs``: which dimension of the state belongs to which of the action
- ``shift``: first and last episodes that differ
"""
