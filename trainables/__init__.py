"""The learning core: datasets, policies, training and evaluation.

Nothing in this package knows the sweep service: it runs alone, in a notebook or on a cluster worker.
"""
