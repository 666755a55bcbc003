"""Guidance by one call of batch 2, by one call of what guides in one, and by two calls is the same."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from ddimcache.bench import unet
from ddimcache.errors import DeviceError
from ddimcache.runtime.component import LoadedComponent
from ddimcache.runtime.devices import DeviceSpec
from ddimcache.runtime.progress import SilentProgress
from tests.kit.family import stand_in
from tests.kit.shared_bundles import compiled


@pytest.mark.parametrize("cut", [0, *(pytest.param(cut, marks=pytest.mark.full) for cut in (1, 2, 3))])
def test_both_prompts_in_one_call(cut: int) -> None:
    """At any cut: predictions and features of the halves, and what a cached step makes of them."""
    unets = {}
    for batch in (1, 2):
        options = dict(target="llvm", cut=cut, batch=batch, guide_in_one_call=batch == 1)
        bundle = compiled(stand_in("small"), **options)
        unets[batch] = LoadedComponent(bundle, "unet", DeviceSpec("llvm"))
    spec = bundle.manifest.context
    random = np.random.default_rng(cut)
    contexts = random.standard_normal((2, *spec.shape[1:])).astype("float32")
    latents = random.standard_normal((1, *bundle.manifest.latents.shape[1:])).astype("float32")
    moments = np.linspace(999, 1, 64).astype("float32")

    def steps(batch: int, contexts: np.ndarray, ending: str = "") -> list[np.ndarray]:
        """Prediction and features of a full step, and the prediction of a cached one at another moment."""
        network, given = unets[batch], tvm.runtime.tensor(np.repeat(latents, batch, 0))
        times = network.call("embed_time", tvm.runtime.tensor(moments)).numpy()
        rows = [tvm.runtime.tensor(times[row : row + 1]) for row in (3, 4)]
        sides = [contexts] if not ending else [contexts[:1], contexts[1:]]
        made = [network.call("project_context", tvm.runtime.tensor(side)).numpy() for side in sides]
        prompts = tvm.runtime.tensor(np.concatenate(made))
        noise, *features = network.call(f"full{ending}", given, rows[0], prompts)
        cached = network.call(f"cached{ending}", given, rows[1], prompts, *features)
        return [tensor.numpy() for tensor in (noise, *features, cached)]

    together = steps(2, contexts)
    apart = [steps(1, contexts[side : side + 1]) for side in (0, 1)]
    for ours, guided, *theirs in zip(together, steps(1, contexts, "_guided"), *apart, strict=True):
        expected = np.concatenate(theirs)
        for both in (ours, guided):
            assert both.shape == expected.shape
            assert np.abs(both - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(together[0][0] - together[0][1]).max() > 1e-3 * np.abs(together[0]).max()


def test_calls_for_both_are_checked_and_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = stand_in("small")
    bundle = compiled(model, target="llvm", guide_in_one_call=True)
    options = dict(peers=(), repeats=1, threads=1, progress=SilentProgress())
    times = unet.measure(bundle, DeviceSpec("llvm"), model, **options)
    assert set(times.seconds_guided) == {"full", "cached"}
    assert all(seconds > 0 for seconds in times.seconds_guided.values())
    right = unet.DeviceUnet.place_both

    def wrong(self: unet.DeviceUnet, negative: unet.UnetInputs, *others: object) -> tuple:
        latents, time, contexts = right(self, negative, *others)
        return latents, time, tvm.runtime.tensor(contexts.numpy()[::-1].copy())

    monkeypatch.setattr(unet.DeviceUnet, "place_both", wrong)
    with pytest.raises(DeviceError, match="the full UNet call for both prompts"):
        unet.measure(bundle, DeviceSpec("llvm"), model, **options)
