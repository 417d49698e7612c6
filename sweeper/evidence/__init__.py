"""What episodes say about policies: intervals, comparisons, planning and races. Needs numpy and scipy only.

Larger outcomes are better everywhere; negate what is minimised. Methods, sources and measured coverage are in
`docs/evidence.md`.

- ``intervals``: interval of a success rate and of a mean reward
- ``comparison``: the result of comparing two policies
- ``paired``: compares two policies on the same starts
- ``unpaired``: compares two policies on different starts
- ``leader``: which of many policies the evidence does not tell apart from the best
- ``probability_best``: how probable it is that each of many policies is the best
- ``planning``: how many episodes a difference needs, and which difference episodes can show; standard
  library only
- ``anytime``: intervals that stay valid if you look at them after every episode
- ``race``: finalists on the same starts, in blocks; the clearly worse ones leave
- ``shrinkage``: how far a search value exceeds the confirmed one
"""
