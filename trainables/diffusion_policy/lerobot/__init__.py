"""LeRobot's checkpoints in and out.

The public interface::

    from trainables.diffusion_policy import lerobot

    policy = lerobot.load("outputs/train/checkpoints/last")
    actions = policy.predict_action(observation)  # (B, n_action_steps, A), in original units
    lerobot.save(policy, "exported", target="lerobot==0.4.4")
"""

from trainables.diffusion_policy.config_json import TARGETS
from trainables.diffusion_policy.lerobot.express import ExportError
from trainables.diffusion_policy.lerobot.read import Pretrained, load, read_checkpoint
from trainables.diffusion_policy.lerobot.write import save

__all__ = ["TARGETS", "ExportError", "Pretrained", "load", "read_checkpoint", "save"]
