"""The UNet of PyTorch's side, compiled by OpenVINO for this machine's CPU."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddimcache.errors import DeviceError

PRECISIONS = {"openvino": "f32", "openvino-bf16": "bf16"}
"""What a peer's name means: the dtype in which OpenVINO may compute."""
REMEDY = "pip install 'ddimcache[peers]'"


class OpenVinoUnet:
    """A diffusers UNet, its weights as they are, compiled at the shapes of the inputs.

    Parameters
    ----------
    network : a ``UNet2DConditionModel`` in float32.
    latents, timestep, context : inputs [B, C, h, w] and [B, L, D] float32 that fix the shapes.
    peer : a name of :data:`PRECISIONS`. A CPU without bfloat16 computes in float32 whatever the name.
    threads : at most so many.

    Raises :class:`DeviceError` where OpenVINO is not installed or cannot compile the model.
    """

    def __init__(
        self,
        network: Any,
        latents: NDArray[np.float32],
        timestep: int,
        context: NDArray[np.float32],
        peer: str,
        threads: int,
    ) -> None:
        import torch

        require_openvino()
        import openvino

        example = {
            "sample": torch.from_numpy(latents),
            "timestep": torch.tensor(timestep),
            "encoder_hidden_states": torch.from_numpy(context),
        }
        shapes = {name: openvino.PartialShape(list(value.shape)) for name, value in example.items()}
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the shapes are fixed anyway
                model = openvino.convert_model(network, example_input=example, input=list(shapes.items()))
            compiled = openvino.Core().compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": PRECISIONS[peer],
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "PERFORMANCE_HINT": "LATENCY",
                },
            )
        except (
            Exception
        ) as error:  # its readers and plug-ins raise RuntimeError and whatever they call raises
            raise DeviceError(f"OpenVINO cannot compile the UNet: {error}", where=f"--peer {peer}") from error
        self._request = compiled.create_infer_request()

    def __call__(
        self, latents: NDArray[np.float32], timestep: int, context: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the noise [B, C, h, w] float32 for inputs of the shapes given before."""
        self._request.infer(
            {"sample": latents, "timestep": np.asarray(timestep), "encoder_hidden_states": context},
            share_inputs=True,
        )
        return np.array(self._request.get_output_tensor(0).data)


def require_openvino() -> None:
    """Raise :class:`DeviceError` with the remedy where OpenVINO is not installed."""
    try:
        import openvino  # noqa: F401
    except ImportError as error:
        raise DeviceError("OpenVINO is not installed", where="--peer", remedy=REMEDY) from error
