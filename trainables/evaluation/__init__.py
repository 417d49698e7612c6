"""Evaluation of a policy: rollouts in a simulator, held-out action error, intervals."""
