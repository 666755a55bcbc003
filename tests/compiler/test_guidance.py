"""Guidance by one call of batch 2, and by two calls as the session makes them, is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tvm

from ddimcache.models.stand_in import write_stand_in
from ddimcache.runtime.component import LoadedComponent
from ddimcache.runtime.devices import DeviceSpec
from tests.kit.device_run import compile_to
from tests.kit.family import SMALL


@pytest.mark.full
@pytest.mark.parametrize("cut", range(4))
def test_both_prompts_in_one_call(cut: int, tmp_path: Path) -> None:
    """At any cut: predictions and features of the halves, and what a cached step makes of them."""
    model = write_stand_in(SMALL, tmp_path / "model", dtype="float32")
    unets = {}
    for batch in (1, 2):
        bundle = compile_to(model, tmp_path / f"batch{batch}", target="llvm", cut=cut, batch=batch)
        unets[batch] = LoadedComponent(bundle, "unet", DeviceSpec("llvm"))
    spec = bundle.manifest.context
    random = np.random.default_rng(cut)
    contexts = random.standard_normal((2, *spec.shape[1:])).astype("float32")
    latents = random.standard_normal((1, *bundle.manifest.latents.shape[1:])).astype("float32")
    moments = np.linspace(999, 1, 64).astype("float32")

    def steps(batch: int, contexts: np.ndarray) -> list[np.ndarray]:
        """Prediction and features of a full step, and the prediction of a cached one at another moment."""
        unet, given = unets[batch], tvm.runtime.tensor(np.repeat(latents, batch, 0))
        times = unet.call("embed_time", tvm.runtime.tensor(moments)).numpy()
        rows = [tvm.runtime.tensor(times[row : row + 1]) for row in (3, 4)]
        prompts = unet.call("project_context", tvm.runtime.tensor(contexts))
        noise, *features = unet.call("full", given, rows[0], prompts)
        cached = unet.call("cached", given, rows[1], prompts, *features)
        return [tensor.numpy() for tensor in (noise, *features, cached)]

    together = steps(2, contexts)
    apart = [steps(1, contexts[side : side + 1]) for side in (0, 1)]
    for ours, *theirs in zip(together, *apart, strict=True):
        expected = np.concatenate(theirs)
        assert ours.shape == expected.shape
        assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(together[0][0] - together[0][1]).max() > 1e-3 * np.abs(together[0]).max()
