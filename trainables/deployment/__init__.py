"""A policy on a robot, whatever kind of policy it is.

It knows a policy by the methods that it needs, so it stands below the policies and the rollouts: they use it.
"""
