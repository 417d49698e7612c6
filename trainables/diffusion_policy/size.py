"""How large a policy is, from its configuration alone. Standard library only."""

from __future__ import annotations

import itertools

from trainables.diffusion_policy.config import PolicyConfig

__all__ = ["parameter_count"]

# Parameters of torchvision's ResNets without the classifier, and the channels of their last stage.
_BACKBONES = {
    "resnet18": (11_176_512, 512),
    "resnet34": (21_284_672, 512),
    "resnet50": (23_508_032, 2048),
    "resnet101": (42_500_160, 2048),
}


def parameter_count(policy: PolicyConfig, *, action_dim: int, vector_dim: int, cameras: int) -> int:
    """Count the weights of a policy.

    Args:
        policy: The network's configuration.
        action_dim: Numbers in an action.
        vector_dim: Numbers in the state and the environment state together.
        cameras: Number of image inputs.
    """
    features = 2 * policy.spatial_softmax_num_keypoints
    step_condition = vector_dim + features * cameras
    embed = policy.diffusion_step_embed_dim
    encoders = 0
    if cameras:
        encoders = _encoder(policy) * (cameras if policy.use_separate_rgb_encoder_per_camera else 1)
    step_encoder = 2 * (embed * 4 * embed) + 5 * embed
    condition = embed + step_condition * policy.n_obs_steps
    return encoders + step_encoder + _unet(policy, action_dim, condition)


def _encoder(policy: PolicyConfig) -> int:
    weights, channels = _BACKBONES[policy.vision_backbone]
    keypoints = policy.spatial_softmax_num_keypoints
    return weights + channels * keypoints + keypoints + (2 * keypoints + 1) * 2 * keypoints


def _unet(policy: PolicyConfig, action_dim: int, condition: int) -> int:
    kernel = policy.kernel_size

    def conv_block(inputs: int, outputs: int) -> int:
        return inputs * outputs * kernel + outputs + 2 * outputs

    def residual_block(inputs: int, outputs: int) -> int:
        modulation = outputs * (2 if policy.use_film_scale_modulation else 1)
        skip = 0 if inputs == outputs else inputs * outputs + outputs
        return (
            conv_block(inputs, outputs) + conv_block(outputs, outputs) + (condition + 1) * modulation + skip
        )

    dims = (action_dim, *policy.down_dims)
    levels = list(itertools.pairwise(dims))
    total = 2 * residual_block(dims[-1], dims[-1])
    for position, (inputs, outputs) in enumerate(levels):
        total += residual_block(inputs, outputs) + residual_block(outputs, outputs)
        if position < len(levels) - 1:
            total += outputs * outputs * 3 + outputs
    for position, (inputs, outputs) in enumerate(reversed(levels[1:])):
        total += residual_block(2 * outputs, inputs) + residual_block(inputs, inputs)
        # LeRobot keeps the identity only at the very last level, which this loop never reaches.
        if position < len(levels) - 1:
            total += inputs * inputs * 4 + inputs
    first = policy.down_dims[0]
    return total + conv_block(first, first) + first * action_dim + action_dim
