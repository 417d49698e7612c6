"""A Diffusion Policy of one to four steps, distilled from a trained one.

- ``trainable``: what the service sees
- ``settings``: the fields of the distillation, and the fields of the student that follow from them
- ``distillation``: what is minimised
"""

from trainables.diffusion_policy_distilled.trainable import TRAINABLE

__all__ = ["TRAINABLE"]
