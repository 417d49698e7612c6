"""A policy, served to robots from this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sweeper.errors import UserError
from sweeper.finalists.candidates import Candidate
from sweeper.gpus import first_device
from trainables import registry
from trainables.interface import (
    ENVIRONMENT,
    EvaluatesPolicies,
    EvaluationContext,
    RunningServer,
    ServablePolicy,
    ServeOptions,
    silent,
)

__all__ = ["serve_policy"]


def serve_policy(
    candidate: Candidate,
    options: ServeOptions,
    cache: Path,
    *,
    threads: int = 0,
    progress: Callable[[str], None] = silent,
    report: Callable[[str], object] = silent,
) -> RunningServer:
    """Open a policy, and serve it in another thread until the returned server is closed.

    Args:
        candidate: The policy, with its inference setting.
        options: Where and for whom.
        cache: Folder for what is shared on this machine.
        threads: Threads of a prediction; 0 leaves torch's setting alone.
        progress: Told what is being done until the server runs.
        report: Receives a sentence whenever a session begins, ends or is refused; from another thread.

    Raises:
        UserError: If the trainable's policies cannot be served.
        TrainableError: If the checkpoint or the setting cannot be used, a package is missing, or the port is
            in use.
    """
    trainable = registry.load(candidate.trainable)
    assert isinstance(trainable, EvaluatesPolicies)
    # A robot's machine need not have the simulator of the training.
    config = {**candidate.config, **({ENVIRONMENT: None} if ENVIRONMENT in trainable.fields else {})}
    context = EvaluationContext(cache, first_device(), threads, progress)
    policy = trainable.open_policy(candidate.checkpoint, config, context)
    if not isinstance(policy, ServablePolicy):
        raise UserError(
            f"{candidate.label}: the trainable {candidate.trainable} cannot serve its policies. "
            "They must have what trainables.interface.ServablePolicy asks for."
        )
    progress("timing predictions")
    return policy.serve(candidate.setting, options, report)
