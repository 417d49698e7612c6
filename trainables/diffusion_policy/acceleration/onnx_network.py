"""The U-Net in ONNX Runtime on a CPU, with the policy's own weights in memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.acceleration.backends import Precision, StepNetwork, UnavailableError
from trainables.diffusion_policy.network.policy import DiffusionPolicy

__all__ = ["onnx_network"]

EXTRA = 'pip install "diffusion-policy-sweeper[onnx]"'


def onnx_network(policy: DiffusionPolicy, precision: Precision) -> StepNetwork:
    """Load the U-Net into ONNX Runtime.

    Raises:
        UnavailableError: If ONNX or its runtime is not installed, or the policy is not in float32 on a CPU.
    """
    try:
        import onnxruntime

        from trainables.diffusion_policy.acceleration.onnx_unet import FILMS, NOISY, unet_to_onnx
    except ImportError as error:
        raise UnavailableError(f"{error.name or error} is not installed: {EXTRA}") from error
    if policy.device.type != "cpu" or precision != "fp32":
        raise UnavailableError(f"ONNX Runtime is used for fp32 on a CPU, not {precision} on {policy.device}")
    model, weights = unet_to_onnx(policy.diffusion.unet, policy.horizon)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the CPU from a control loop on the same machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_external_initializers(
        list(weights), [onnxruntime.OrtValue.ortvalue_from_numpy(value) for value in weights.values()]
    )
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own errors have no common class
        raise UnavailableError(f"ONNX Runtime refused the network: {error}") from error

    def predict(noisy_BTA: Tensor, films_BF: Tensor) -> Tensor:
        given: dict[str, np.ndarray] = {NOISY: noisy_BTA.numpy(), FILMS: films_BF.unsqueeze(-1).numpy()}
        return torch.from_numpy(session.run(None, given)[0])

    # The session computes with these arrays: they live as long as the network.
    predict.weights = weights  # type: ignore[attr-defined]
    return predict
