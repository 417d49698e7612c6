"""What is wrong with a machine, or with the nodes of a cluster.

- ``examination``: asks every node
- ``probe``: what one node is like; runs on that node
- ``diagnosis``: what is wrong, and the remedy
"""
