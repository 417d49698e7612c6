"""Push-T, the built-in task: simulator, an expert that solves it, and its demonstrations."""
