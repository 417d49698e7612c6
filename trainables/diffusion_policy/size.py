"""How large a policy is, from its configuration alone. Standard library only."""

from __future__ import annotations

import math

from trainables.diffusion_policy.sections import PolicyConfig
from trainables.diffusion_policy.shapes import Shapes, tensor_shapes

__all__ = ["encoder_count", "parameter_count"]

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""BatchNorm's, which are no parameters."""
_ENCODERS = "diffusion.rgb_encoder."


def parameter_count(policy: PolicyConfig, *, action_dim: int, vector_dim: int, cameras: int) -> int:
    """Count the weights of a policy.

    Args:
        policy: The network's configuration.
        action_dim: Numbers in an action.
        vector_dim: Numbers in the state and the environment state together.
        cameras: Number of image inputs.
    """
    shapes = tensor_shapes(policy, action_dim=action_dim, vector_dim=vector_dim, cameras=cameras)
    return _count(shapes)


def encoder_count(policy: PolicyConfig, cameras: int) -> int:
    """Count the weights of a policy's image encoders."""
    shapes = tensor_shapes(policy, action_dim=1, vector_dim=1, cameras=cameras)
    return _count({name: shape for name, shape in shapes.items() if name.startswith(_ENCODERS)})


def _count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if not name.endswith(_BUFFERS))
