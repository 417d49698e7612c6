"""Import and export of LeRobot's checkpoints.

The public interface::

    from trainables.diffusion_policy import lerobot

    policy = lerobot.load("outputs/train/checkpoints/last")
    actions = policy.predict_action(observation)  # (B, n_action_steps, A), in original units
    lerobot.save(policy, "exported", target="lerobot==0.4.4")
"""

from trainables.diffusion_policy.lerobot.translate import ExportError
from trainables.diffusion_policy.lerobot.write import save
from trainables.diffusion_policy.pretrained.lerobot_config import TARGETS
from trainables.diffusion_policy.pretrained.read import load, read_checkpoint
from trainables.diffusion_policy.pretrained.weights import Pretrained

__all__ = ["TARGETS", "ExportError", "Pretrained", "load", "read_checkpoint", "save"]
