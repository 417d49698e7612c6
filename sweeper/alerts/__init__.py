"""Alerts: a webhook and a command hear of a sweep's end, a new best trial, silence and a full disk.

- ``messages``: what is said of an event
- ``delivery``: sends a message to a webhook or a command
- ``sender``: the thread that sends, and what was sent
- ``watcher``: alerts by `sweeper watch`, if the driver cannot send them
- ``silence``: how long nothing was heard of running trials
"""
