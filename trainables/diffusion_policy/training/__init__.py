"""Training.

- ``train``: the loop, to be read top to bottom
- ``graphed_step``: the step as one CUDA graph
- ``objective``: what is minimised
- ``stream``: batches by step
- ``augmentation/``: random changes of the pictures
- ``progress``: state between steps; divergence
- ``evaluate``: held-out error and rollouts during training
- ``beside/``: evaluation in another process, while training goes on
- ``checkpoint``: everything an exact resume needs
- ``saver``: writes them beside the training
- ``distributed``: several workers
- ``optimizer``, ``ema``: the update and the averaged weights
- ``process``: settings of the process: arithmetic, freed memory
"""
