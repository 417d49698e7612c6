"""Evaluation beside training: another process evaluates a checkpoint while training goes on.

- ``evaluations``: the evaluations of a run, and the reports that wait for one
- ``evaluator_process``: the evaluating process, as training sees it
- ``evaluator``: what that process does
- ``spare``: whether the machine has a processor and memory to spare
"""
