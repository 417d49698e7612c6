"""LeRobot's checkpoints in and out.

The public interface::

    from trainables.diffusion_policy import lerobot

    policy = lerobot.load("outputs/train/checkpoints/last")
    actions = policy.predict_action(observation)  # (B, n_action_steps, A), in original units
    lerobot.save(policy, "exported", target="lerobot==0.4.4")
"""

from trainables.diffusion_policy.lerobot.read import Pretrained, load, read_checkpoint

__all__ = ["Pretrained", "load", "read_checkpoint"]
