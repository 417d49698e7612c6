"""What is printed of trained policies.

- ``confirmation``: the finalists of a confirmation, and its answer.
- ``inspection``: one policy, looked into.
"""
