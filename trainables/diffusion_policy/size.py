"""How large a policy is, from its configuration alone. Standard library only."""

from __future__ import annotations

import math

from trainables.diffusion_policy.config import PolicyConfig
from trainables.diffusion_policy.shapes import tensor_shapes

__all__ = ["parameter_count"]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""BatchNorm's, which are no parameters."""
_ENCODERS = "diffusion.rgb_encoder."


def parameter_count(
    policy: PolicyConfig, *, action_dim: int, vector_dim: int, cameras: int, encoders: bool = True
) -> int:
    """Count the weights of a policy.

    Args:
        policy: The network's configuration.
        action_dim: Numbers in an action.
        vector_dim: Numbers in the state and the environment state together.
        cameras: Number of image inputs.
        encoders: Whether to count the image encoders' weights too.
    """
    shapes = tensor_shapes(policy, action_dim=action_dim, vector_dim=vector_dim, cameras=cameras)
    return sum(
        math.prod(shape)
        for name, shape in shapes.items()
        if not name.endswith(_BUFFERS) and (encoders or not name.startswith(_ENCODERS))
    )
