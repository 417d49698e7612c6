"""Random changes of the pictures in training, a sample at a time, on the device.

- ``augment``: what is changed, and by how much, from a step's random numbers
- ``sheet``: shows some changed pictures
- ``colour``: brightness, contrast, saturation, hue
- ``filters``: sharpness, blur
- ``geometry``: rotation, shift and zoom; erased rectangles

The functions take float pictures (N, C, H, W) in [0, 1] and a number for each, and give what those of
torchvision.transforms.v2.functional give for each picture alone.
"""
