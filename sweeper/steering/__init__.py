"""How another process asks a running sweep for something.

- ``mailbox``: requests and answers as files in the sweep's folder
- ``operations``: what can be asked (status, request, events, alive, log) as functions of a folder
- ``entrance``: the same through an actor on a cluster
- ``status``: the status of a sweep as plain types
- ``changes``: what may change in a sweep that has started
"""
