"""Simulators that are stepped in this process or in several.

- ``simulator``: one simulator and what it is ordered to do: start an episode, play a chunk of actions
- ``simulators``: many of them, in this process, with the recovery of one that fails
- ``processes``: the same in processes of their own, which may crash and hang
- ``child``: the program of such a process
- ``shared``: memory through which it hands over observations
- ``choice``: how many processes are worth it (``rollout.processes: auto``)
"""
