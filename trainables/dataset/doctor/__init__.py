"""Say what is wrong with a dataset before anything is trained on it.

``quick`` is what every launch runs: metadata, numbers, the containers of the videos; nothing is decoded.
``examination`` is the whole doctor: what ``quick`` finds, and what the numbers and a sample of the pictures
show. Every threshold is a named constant with its reason; a sound set has no finding.
"""

from trainables.dataset.doctor.quick import dataset_faults

__all__ = ["dataset_faults"]
