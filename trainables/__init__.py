"""The learning core: datasets, policies, training and evaluation.

This package does not depend on the sweep service: it also runs alone, in a notebook or on a cluster worker.
"""
