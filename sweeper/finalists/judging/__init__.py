"""Finalists on the real robot, judged by a person who does not know which policy is which.

- ``session``: the policies, their neutral names and the order of the episodes.
- ``others``: policies that are not trials of the sweep.
- ``answers``: what the person answered, in files of episodes.
- ``judging``: which episode is next, and what the answers so far say.
- ``dialogue``: asks in the terminal.
- ``web``, ``page``: ask on a web page, also on a phone.
- ``sheet``: asks on a sheet that is filled in elsewhere.
- ``addresses``: where a server listens.
- ``servers``: serve the policies under their neutral names.
"""
