"""Holds the list of launches of a bundle against the PyTorch model that it was compiled from."""

from __future__ import annotations

from ddimcache.runtime.bundle import Bundle
from tests.kit.reference import TorchPipeline

UNUSED = ("encoder", "quant_conv")
"""Parts of the autoencoder that only training and image-to-image use."""


def check_launches(bundle: Bundle, pipe: TorchPipeline) -> dict[str, int]:
    """Checks that every launch has a layer of the model, and every layer with weights a launch.

    Returns the number of launches by function.
    """
    networks = {"text_encoder": pipe.text_encoder, "unet": pipe.unet, "vae_decoder": pipe.vae}
    counts, manifest = {}, bundle.manifest
    for component, network in networks.items():
        layers = {name for name, _ in network.named_modules() if name}
        unused = UNUSED if component == "vae_decoder" else ()
        weighted = {
            name
            for name, module in network.named_modules()
            if list(module.parameters(recurse=False)) and name.partition(".")[0] not in unused
        }
        seen = set()
        for function, launches in bundle.launches(component).functions.items():
            found = {launch.layer for launch in launches}
            # What is computed for all blocks at once belongs to the whole network.
            known = layers | ({component} if function in manifest.macs_once else set())
            assert found <= known or found == {"sampler"}, sorted(found - known)
            seen |= found
            counts[function] = len(launches)
            for launch in launches:
                assert launch.flops >= 2 * launch.macs, launch
                assert launch.bytes_written > 0, launch
                if launch.kernel.startswith("attention"):
                    assert "out" not in launch.layer.split(".attn")[-1], launch
        # Projections that are computed at once belong to the module around them, or to the whole network.
        unseen = {name for name in weighted - seen if name.rpartition(".")[0] not in seen}
        if component in seen:
            unseen = {name for name in unseen if not name.endswith("time_emb_proj")}
        assert not unseen, sorted(unseen)
    unet = bundle.launches("unet").functions
    steps = {"full": manifest.macs_full, "cached": manifest.macs_cached}
    for function, macs in (steps | manifest.macs_once).items():
        # Panels are padded, so that launches multiply at least what the model does.
        assert macs <= sum(launch.macs for launch in unet[function]) < 4 * macs + 100_000, function
    return counts
