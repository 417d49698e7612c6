"""Requests from other processes to a running sweep, and its status.

- ``mailbox``: requests and answers as files in the sweep's folder
- ``operations``: what can be asked (status, request, events, alive, log) as functions of a folder
- ``entrance``: the same through an actor on a cluster
- ``status``: the status of a sweep as plain types
- ``changes``: what may change in a sweep that has started
"""
