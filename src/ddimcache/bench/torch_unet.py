"""The UNet of a model folder in PyTorch, with the weights that a bundle keeps of it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from ddimcache.compiler.compress.quantize import stored_values
from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
from ddimcache.runtime.bundle import Bundle


class TorchUnet:
    """A diffusers UNet in float32 and eager mode; inside ``with``, PyTorch has the number of threads given.

    Parameters
    ----------
    model : the diffusers folder.
    bundle : says how the weights of convolutions and linear layers are rounded.
    threads : of PyTorch.

    ``network`` is the ``UNet2DConditionModel``. Raises :class:`FrontendError` when the folder cannot be read.
    """

    def __init__(self, model: Path, bundle: Bundle, threads: int) -> None:
        self.network = load_pipeline_folder(model).load_unet()
        round_weights(self.network, bundle.manifest.weights)
        self._threads = threads
        self._threads_before = torch.get_num_threads()

    def __enter__(self) -> TorchUnet:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads_before)

    def __call__(
        self, latents: NDArray[np.float32], timestep: int, context: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return the noise [B, C, h, w] float32 for latents of that shape and a context [B, L, D]."""
        with torch.inference_mode():
            noise = self.network(
                torch.from_numpy(latents), timestep, torch.from_numpy(context), return_dict=False
            )[0]
        return noise.numpy()


def round_weights(module: torch.nn.Module, kind: str) -> None:
    """Replace the weights of convolutions and linear layers, in place, by what ``kind`` keeps of them.

    ``kind`` is a ``WeightsKind``; ``fp32`` leaves them alone.
    """
    if kind == "fp32":
        return
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            stored = stored_values(layer.weight.detach().numpy(), kind)
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(stored))
