"""Manifests of several picture sizes: what both readers refuse, and what one size sees of them."""

import json

import pytest

from ddimcache.errors import BundleError, UsageError
from ddimcache.launches import Launch, LaunchLists
from ddimcache.manifest import Manifest
from ddimcache.picture_sizes import PlainNames, launches_at, manifest_at
from ddimcache.records import from_json, to_json
from ddimcache.runtime.bundle import parse_manifest
from ddimcache.runtime.native import answer_of, native
from tests.fakes import fake_bundle as fake
from tests.runtime.test_bundle import put, remove

MORE = ((12, 6), (6, 12))


def check_in_cpp(text: str) -> None:
    answer_of(native("check_manifest")(text.encode()))


@pytest.fixture(params=["python", "cpp"])
def reading(request):
    """One of the two readers."""
    return {"python": parse_manifest, "cpp": check_in_cpp}[request.param]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("more_sizes", 0, "image_size", [64, 64]), "more_sizes: 64x64 is there twice"),
        (put("more_sizes", 1, "image_size", [96, 48]), "more_sizes: 96x48 is there twice"),
        (put("more_sizes", 0, "image_size", [96]), "more_sizes[0].image_size: expected 2 items, found 1"),
        (put("more_sizes", 0, "image_size", [0, 48]), "more_sizes[0].image_size[0]: is 0, below the least"),
        (put("more_sizes", 0, "latent_size", [12, 7]), "components.unet.functions.full_96x48: (float32"),
        (
            put("more_sizes", 0, "features", 0, "shape", [1, 1, 8, 8]),
            "more_sizes: 96x48: feature_bytes: 288, but 2",
        ),
        (put("more_sizes", 1, "feature_bytes", 3), "more_sizes: 48x96: feature_bytes: 3, but 2 features"),
        (put("more_sizes", 1, "surprise", 3), "more_sizes[1]: unknown key 'surprise'"),
        (remove("more_sizes", 0, "macs_full"), "more_sizes[0]: key 'macs_full' is missing"),
        (put("more_sizes", 0, "macs_cached", -1), "more_sizes[0].macs_cached: is -1, below the least"),
        (
            remove("more_sizes", 1, "activation_bytes", "unet"),
            "more_sizes: 48x96: activation_bytes: of vae_decoder, not of what depends on the size",
        ),
        (
            put("more_sizes", 0, "activation_bytes", "text_encoder", 7),
            "96x48: activation_bytes: of text_encoder, unet, vae_decoder, not of what depends on the size",
        ),
        (
            put("more_sizes", 0, "activation_bytes", "unet", -7),
            "activation_bytes.unet: is -7, below the least",
        ),
        (remove("components", "unet", "functions", "cached_48x96"), "function 'cached_48x96' is missing"),
        (remove("components", "vae_decoder", "functions", "decode_96x48"), "'decode_96x48' is missing"),
        (put("passes", 0, "size", [64]), "passes[0].size: expected 2 items, found 1"),
        (put("passes", 0, "size", [64, 0]), "passes[0].size[1]: is 0, below the least allowed, 1"),
        (put("more_sizes", {}), "more_sizes: expected a list, found an object"),
    ],
)
def test_wrong_manifest(reading, change, message):
    value = to_json(fake.manifest(more=MORE))
    change(value)
    with pytest.raises(BundleError) as caught:
        reading(json.dumps(value))
    assert message in str(caught.value)


def test_manifest_survives_json():
    manifest = fake.manifest(more=MORE)
    assert from_json(Manifest, json.loads(json.dumps(to_json(manifest)))) == manifest


def test_sizes_are_listed_and_found():
    manifest = fake.manifest(more=MORE)
    assert [size.text for size in manifest.sizes] == ["64x64", "96x48", "48x96"]
    assert manifest.size_of(None) == manifest.sizes[0]
    assert manifest.size_of((48, 96)).latent_size == (6, 12)
    with pytest.raises(
        UsageError, match="--size: the bundle makes no pictures of 64x96, only of 64x64, 96x4"
    ):
        manifest.size_of((64, 96))


@pytest.mark.parametrize("cells", [(fake.SIDE, fake.SIDE), *MORE])
def test_one_size_sees_what_a_bundle_of_it_alone_has(cells):
    width, height = (side * fake.SCALE for side in cells)
    seen = manifest_at(fake.manifest(more=MORE, images=True), (width, height))
    assert seen.image_size == (width, height)
    assert seen.latents.shape == (1, fake.CHANNELS, cells[1], cells[0])
    assert seen.image.shape == (1, height, width, 3)
    assert [size.image_size for size in seen.sizes] == [(width, height)]
    assert set(seen.components["unet"].functions) == {"embed_time", "project_context", "full", "cached"}
    assert set(seen.components["vae_encoder"].functions) == {"encode"}
    assert {peak.function for peak in seen.components["unet"].peaks} == set(seen.components["unet"].functions)
    [kernel] = seen.components["unet"].kernels
    assert kernel.calls == dict.fromkeys(seen.components["unet"].functions, 1)
    share = cells[0] * cells[1] // fake.SIDE
    assert (seen.macs_full, seen.components["unet"].activation_bytes) == (125 * share, 128 * share)
    returned = sum(component.output_bytes for component in seen.components.values())
    assert seen.activation_bytes == 128 * share + returned
    # All but its files is as a bundle should be.
    assert "is not in the list of files" in (seen.first_problem() or "")


def test_a_bundle_of_one_size_stays_as_it_is():
    manifest = fake.manifest()
    assert manifest_at(manifest, None) is manifest
    with pytest.raises(UsageError, match="only of 64x64"):
        manifest_at(manifest, (8, 8))


def test_launches_of_one_size():
    lists = LaunchLists(
        {
            name: (Launch(name, "layer", 0, 0, 0, 0, (1,), "float32"),)
            for name in (
                "embed_time",
                "full",
                "full_96x48",
                "full_48x96",
                "next_step",
                "step",
                "step_96x48",
                "step_48x96",
            )
        }
    )
    manifest = fake.manifest(more=MORE)
    seen = {
        size.text: {
            plain: launches[0].kernel
            for plain, launches in launches_at(lists, PlainNames.of_size(manifest, size)).functions.items()
        }
        for size in manifest.sizes
    }
    shared = {"embed_time": "embed_time", "next_step": "next_step"}
    assert seen == {
        "64x64": {**shared, "full": "full", "step": "step"},
        "96x48": {**shared, "full": "full_96x48", "step": "step_96x48"},
        "48x96": {**shared, "full": "full_48x96", "step": "step_48x96"},
    }
