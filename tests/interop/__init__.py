"""The comparison with LeRobot itself, in an environment of its own; docs/interop.md says how to run it."""
