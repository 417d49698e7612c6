"""The kit for a machine with a GPU: is it right there, how fast is it, and how much memory does it take."""
