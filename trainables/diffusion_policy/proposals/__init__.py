"""A first space for a dataset, or for a training that the user has already.

- ``dataset_facts``: what a dataset is, as far as the choice depends on it; nothing is decoded
- ``recipes``: the size of the network and the length of the training, by the number of demonstrations
- ``pictures``: how pictures are resized and cropped
- ``propose``: the space
"""
