"""What is printed of trained policies.

- ``comparison``: policies that are compared, and their differences.
- ``confirmation``: the finalists of a confirmation, and its answer.
- ``formats``: what was exported to other runtimes.
- ``judgement``: what a person judged on the real robot.
- ``inspection``: one policy, looked into.
- ``publication``: what was exported, packed and uploaded.
- ``bench``: how fast the ways to compute a policy's chunks are.
- ``tuning``: the inference settings of a policy, and the chosen one.
- ``serving``: a server of a policy: where it is, and what it takes.
- ``sentences``: how sure a result is, in sentences and cells of tables.
"""
