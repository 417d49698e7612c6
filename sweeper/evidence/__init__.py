"""What episodes say about policies: intervals, comparisons, planning and races. Needs numpy and scipy only.

Larger outcomes are better everywhere; negate what is minimised. Methods, sources and measured coverage are in
`docs/evidence.md`.

- ``intervals``: interval of a success rate and of a mean reward
- ``comparison``: the result of comparing two policies
- ``paired``: compares two policies on the same starts
- ``unpaired``: compares two policies on different starts
- ``planning``: how many episodes a difference needs, and which difference episodes can show; standard
  library only
"""
