"""A chunk as one CUDA graph: image encoders and all denoising steps in a single launch.

A small network spends its time on launching kernels. A graph launches them all at once, on buffers that stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from trainables.diffusion_policy.acceleration.backends import UnavailableError

__all__ = ["GraphedChunk"]

WARM_UP = 3
"""Runs before the capture, in which libraries choose algorithms and allocate."""
Chunk = Callable[[Mapping[str, Tensor], Tensor, list[Tensor]], Tensor]


class GraphedChunk:
    """A captured prediction for values of fixed shapes and kinds.

    Args:
        chunk: Predicts from observations, noise and the noise of the steps.
        observation: Values like those that will be predicted from.
        noise_BTA: Likewise, on the GPU.
        draws: Likewise.

    Raises:
        UnavailableError: If there is no GPU, or the prediction cannot be captured.
    """

    def __init__(
        self, chunk: Chunk, observation: Mapping[str, Tensor], noise_BTA: Tensor, draws: Sequence[Tensor]
    ) -> None:
        device = noise_BTA.device
        if device.type != "cuda":
            raise UnavailableError(f"a CUDA graph needs a GPU, and the policy is on {device}")
        self._observation = {name: value.to(device, copy=True) for name, value in observation.items()}
        self._noise_BTA = noise_BTA.clone()
        self._draws = [draw.clone() for draw in draws]
        try:
            self._capture(chunk, device)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UnavailableError(f"the prediction cannot be captured: {reason}") from error

    def _capture(self, chunk: Chunk, device: torch.device) -> None:
        with torch.cuda.device(device):
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    chunk(self._observation, self._noise_BTA, self._draws)
            torch.cuda.current_stream().wait_stream(beside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._result_BTA = chunk(self._observation, self._noise_BTA, self._draws)

    def __call__(
        self, observation: Mapping[str, Tensor], noise_BTA: Tensor, draws: Sequence[Tensor]
    ) -> Tensor:
        """Predict (B, T, A); a new tensor every time."""
        for name, value in observation.items():
            self._observation[name].copy_(value, non_blocking=True)
        self._noise_BTA.copy_(noise_BTA)
        for buffer, draw in zip(self._draws, draws, strict=True):
            buffer.copy_(draw)
        self._graph.replay()
        return self._result_BTA.clone()
