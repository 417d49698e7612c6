"""What is done with trained policies after the search: evaluate, choose inference settings, confirm.

- ``candidates``: which policies are meant: trials of sweeps, or checkpoints.
- ``evaluators``: Ray actors that hold policies open and evaluate them, several at once.
- ``formats``: a policy in formats of other runtimes.
- ``inspection``: one policy, looked into.
- ``bench``: the ways to compute a policy's chunks, beside each other.
- ``racing``: finalists that play the same episodes until the worse ones leave.
- ``confirm``: the best trials of a sweep on fresh starts.
- ``tuning``: the inference setting of a trained policy.
- ``seeds``: finalists that are trained again with other seeds.
- ``judging``: finalists on the real robot, judged by a person.
- ``compare``: policies compared on the same episodes or held-out moments.
- ``serving``: a policy, served to robots.
- ``recording``: a sweep's journal, opened to record what was found after the search.
"""
