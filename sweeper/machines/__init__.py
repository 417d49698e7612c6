"""This machine, clusters, and Ray on them.

- ``machine``: CPUs, GPUs, disk and cache folder of this machine
- ``cluster``: nodes, autoscaling, how many trials fit at once
- ``connection``: connects to Ray and disconnects
- ``local_ray``: a private Ray on this machine, started with retries
- ``outage``: why Ray cannot continue: a full disk, a process that is gone
- ``reaper``: ends what a private Ray leaves behind; runs as a script and imports nothing of ours
- ``identity``: versions, git commit, digest of the code; ``python -m sweeper.machines.identity``
- ``plan``: what a sweep would do on a machine
- ``gpu_share``: how many trials share a GPU
- ``ssh``: the head of a cluster over SSH
- ``jobs``: sweeps as Ray jobs
- ``doctor/``: examines every node
"""
