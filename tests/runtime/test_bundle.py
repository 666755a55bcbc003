"""Every way that a bundle can be wrong has a message that names it; a good one opens.

There are two readers, in Python and in C++; both refuse the same.
"""

import copy
import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ddimcache.compiler.bundle import write_bundle
from ddimcache.errors import BundleError, UsageError
from ddimcache.manifest import FORMAT_VERSION, ConsistencySampler, Manifest, file_entry
from ddimcache.records import from_json, to_json
from ddimcache.runtime.bundle import open_bundle, parse_manifest
from ddimcache.runtime.native import answer_of, native
from tests.fakes import fake_bundle as fake


def open_in_cpp(folder: Path, *, sums: bool = True) -> None:
    answer_of(native("check_bundle")(str(folder), sums))


@pytest.fixture(params=["python", "cpp"])
def opening(request):
    """One of the two readers."""
    return {"python": open_bundle, "cpp": open_in_cpp}[request.param]


def edit(bundle: Path, change) -> None:
    """Alter the manifest as a JSON value."""
    path = bundle / "manifest.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def put(*path_and_value):
    """Return a change that sets one place of the manifest."""
    *path, last, new = path_and_value

    def change(value):
        for key in path:
            value = value[key]
        value[last] = new

    return change


def remove(*path):
    def change(value):
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


def test_good_bundle_opens(fake_bundle):
    bundle = open_bundle(fake_bundle)
    assert bundle.manifest.model == "fake"
    assert bundle.manifest.weights_bytes == (64 * 6 + 6 + 12) * 4 + 4 + 2
    assert bundle.kernel_sources("unet") == {"unet_main": "void unet_main();"}
    assert len(bundle.identity) == 64
    open_in_cpp(fake_bundle)


def alter_launches(bundle: Path, change) -> None:
    """Alter the UNet's list of launches as a JSON value, with the sum that goes with it."""
    path = bundle / "unet.launches.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    edit(bundle, put("files", path.name, to_json(file_entry(path))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("functions", "full", []), "function 'full' launches unet_main 0 times, the manifest says 1"),
        (put("functions", "full", 0, "kernel", "more"), "function 'full' launches more 1 times, the manif"),
        (remove("functions", "cached"), "function 'cached' launches unet_main 0 times"),
        (put("functions", "full", 0, "layer", "</script>"), "functions.full[0].layer: '</script>' is not a"),
        (put("functions", "full", 0, "flops", -1), "functions.full[0].flops: is -1, below the least allowed"),
        (put("surprise", 1), "unknown key 'surprise'"),
    ],
)
def test_launches_that_are_wrong(own_bundle, change, message):
    alter_launches(own_bundle, change)
    with pytest.raises(BundleError) as caught:
        open_bundle(own_bundle).launches("unet")
    assert "unet.launches.json: " in str(caught.value)
    assert message in str(caught.value)


def test_launches(fake_bundle):
    assert open_bundle(fake_bundle).launches("unet") == fake.launches("unet")


def test_manifest_survives_json(fake_bundle):
    manifest = open_bundle(fake_bundle).manifest
    assert from_json(Manifest, json.loads(json.dumps(to_json(manifest)))) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("format_version", 2), f"format_version is 2, this runtime reads {FORMAT_VERSION}"),
        (put("format_version", True), f"this runtime reads {FORMAT_VERSION}"),
        (remove("format_version"), "no format_version"),
        (put("surprise", 1), "unknown key 'surprise'"),
        (put("components", "unet", "surprise", 1), "components.unet: unknown key 'surprise'"),
        (remove("macs_full"), "key 'macs_full' is missing"),
        (put("macs_full", 1.5), "macs_full: expected a whole number, found 1.5"),
        (put("macs_full", -1), "macs_full: is -1, below the least allowed, 0"),
        (put("batch", True), "batch: expected a whole number, found true or false"),
        (put("weights", "int4"), "weights: 'int4' is none of: int8, int8-g32, "),
        (put("loras", [{"name": "a.safetensors", "scale": 1, "sha256": "0"}]), "loras[0].sha256: '0' is not"),
        (put("loras", [{"name": "a.safetensors", "scale": "1"}]), "loras[0]"),
        (put("image_size", [64]), "image_size: expected 2 items, found 1"),
        (put("features", 0, "dtype", "float64"), "features[0].dtype: 'float64' is none of"),
        (put("feature_bytes", 5), "feature_bytes: 5, but 2 features make 256"),
        (put("features", []), "feature_bytes: 256, but 0 features make 0"),
        (put("cut", 3), "cut: 3 is outside 0 … 2"),
        (remove("components", "vae_decoder"), "expected text_encoder, unet and vae_decoder, found"),
        (remove("components", "unet", "functions", "cached"), "function 'cached' is missing"),
        (
            put("components", "unet", "functions", "full", "inputs", 0, "shape", [1, 4, 4, 4]),
            "components.unet.functions.full: (float32[1, 4, 4, 4]",
        ),
        (
            put("components", "unet", "functions", "embed_time", "outputs", 0, "shape", [63, 2]),
            "components.unet.functions.embed_time: (float32[64]) → (float32[63, 2]) does not fit",
        ),
        (
            put("components", "unet", "functions", "embed_time", "outputs", []),
            "components.unet.functions.embed_time: (float32[64]) → () does not fit",
        ),
        (
            put("components", "unet", "functions", "embed_time", "outputs", 0, "shape", [64, 9]),
            "components.unet.functions.full: (float32[1, 4, 8, 8], float32[1, 2], float32[1, 77, 1])",
        ),
        (
            put("components", "unet", "functions", "project_context", "outputs", 0, "dtype", "int8"),
            "components.unet.functions.project_context: (float32[1, 77, 6]) → (int8[1, 77, 1]) does not fit",
        ),
        (
            remove("components", "unet", "functions", "project_context"),
            "components.unet.functions.full: (float32[1, 4, 8, 8], float32[1, 2], float32[1, 77, 1])",
        ),
        (remove("macs_once", "embed_time"), "macs_once: project_context, but what the UNet has before its"),
        (put("components", "unet", "library", "other.so"), "other.so is not in the list of files"),
        (put("components", "unet", "library", "../x.so"), "'../x.so' is not a plain relative file name"),
        (put("components", "unet", "library", "/etc/passwd"), "is not a plain relative file name"),
        (put("files", "../x", {"bytes": 0, "sha256": "0" * 64}), "'../x' is not a plain relative file name"),
        (put("files", "a/../../x", {"bytes": 0, "sha256": "0" * 64}), "is not a plain relative file name"),
        (put("files", "unet.so", "sha256", "xyz"), "files.unet.so.sha256: 'xyz' is not a sha256"),
        (put("files", "unet.so", "sha256", "0" * 64), "unet.so: its sha256 is not the manifest's"),
        (put("files", "unet.so", "bytes", 7), "bytes, the manifest says 7"),
        (put("files", "ghost.so", {"bytes": 0, "sha256": "0" * 64}), "ghost.so: is in the manifest but not"),
        (put("tokenizer", "words"), "no file of folder words"),
        (put("sampler", "num_train_timesteps", 10), "1000 numbers for 10 training timesteps"),
        (put("sampler", "prediction_type", "guess"), "sampler.prediction_type: 'guess' is none of"),
        (
            put("sampler", "euler", "timestep_spacing", "even"),
            "sampler.euler.timestep_spacing: 'even'",
        ),
        (put("sampler", "lcm", "original_steps", 1001), "sampler: lcm.original_steps: 1001 of 1000 training"),
        (put("context", "shape", [1, 77]), "context: expected shape [1, L, D], found [1, 77]"),
        (remove("inpaints"), "key 'inpaints' is missing"),
        (put("inpaints", 1), "inpaints: expected true or false"),
        (put("inpaints", True), "inpaints: true, but without a vae_encoder no picture can be filled in"),
    ],
)
def test_wrong_manifest(own_bundle, opening, change, message):
    edit(own_bundle, change)
    with pytest.raises(BundleError) as caught:
        opening(own_bundle)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "no format_version"),
        ("null", "no format_version"),
        ('{"format_version": 1, "format_version": 1}', "'format_version' appears twice"),
        ('{"format_version": NaN}', "NaN is not a finite number"),
        ('{"format_version": 1e999}', "1e999 is not a finite number"),
        ("[" * 100_000, "not JSON"),
        ("\xff", "not JSON"),
    ],
)
def test_manifest_that_is_no_json_object(own_bundle, opening, text, message):
    (own_bundle / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError) as caught:
        opening(own_bundle)
    assert message in str(caught.value)


def test_missing_manifest(own_bundle, opening):
    (own_bundle / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"has no manifest.json, so it is no bundle"):
        opening(own_bundle)


def test_no_folder(tmp_path, opening):
    with pytest.raises(BundleError, match="nothing: does not exist"):
        opening(tmp_path / "nothing")


def test_truncated_library(own_bundle, opening):
    path = own_bundle / "unet.so"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"unet.so: has \d+ bytes, the manifest says"):
        opening(own_bundle)


def test_one_flipped_bit(own_bundle, opening):
    path = own_bundle / "unet.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"unet.safetensors: its sha256 is not the manifest's"):
        opening(own_bundle)
    assert open_bundle(own_bundle, sums=False).manifest.model == "fake"


def test_missing_weights(own_bundle, opening):
    (own_bundle / "vae_decoder.safetensors").unlink()
    with pytest.raises(BundleError, match=r"vae_decoder.safetensors: is in the manifest but not"):
        opening(own_bundle)


def test_extra_file(own_bundle, opening):
    (own_bundle / "tokenizer" / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"extra.pkl: is not in the manifest"):
        opening(own_bundle)


def test_link_out_of_the_bundle(own_bundle, opening, tmp_path):
    outside = tmp_path / "outside.so"
    shutil.move(own_bundle / "unet.so", outside)
    (own_bundle / "unet.so").symlink_to(outside)
    with pytest.raises(BundleError, match=r"unet.so: is a link that leads out of the bundle"):
        opening(own_bundle)


def test_sources_that_are_no_texts(own_bundle):
    content = b'{"unet_main": 3}'
    (own_bundle / "unet.kernels.json").write_bytes(content)
    entry = file_entry(own_bundle / "unet.kernels.json")
    edit(own_bundle, put("files", "unet.kernels.json", to_json(entry)))
    with pytest.raises(BundleError, match=r"unet.kernels.json: not a JSON object of texts"):
        open_bundle(own_bundle).kernel_sources("unet")


def test_a_folder_in_place_of_a_file(own_bundle, opening):
    (own_bundle / "unet.so").unlink()
    (own_bundle / "unet.so").mkdir()
    with pytest.raises(BundleError, match=r"unet.so: is not a file"):
        opening(own_bundle)


def test_a_file_in_place_of_the_folder(tmp_path, opening):
    (tmp_path / "bundle").write_bytes(b"")
    with pytest.raises(BundleError, match="bundle: is not a folder"):
        opening(tmp_path / "bundle")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
GOOD = to_json(
    dataclasses.replace(
        fake.manifest(images=True, inpaints=True),
        files={
            name: from_json(type(file_entry(Path(__file__))), {"bytes": 0, "sha256": "0" * 64})
            for name in (
                "tokenizer/tokenizer.json",
                *(
                    f"{component}.{end}"
                    for component in ("text_encoder", "unet", "vae_decoder", "vae_encoder")
                    for end in ("so", "safetensors", "launches.json", "kernels.json")
                ),
            )
        },
        sampler=dataclasses.replace(
            fake.manifest().sampler,
            num_train_timesteps=2,
            alphas_cumprod=(0.9, 0.8),
            lcm=ConsistencySampler(2, 10.0),
        ),
    )
)


def places(value, path=()):
    """Yield the path of every value inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield (*path, key)
        yield from places(item, (*path, key))


def at(value, path):
    for part in path:
        value = value[part]
    return value


# Every object but the one whose keys are free: how often a kernel is called, by function.
OBJECTS = [path for path in places(GOOD) if isinstance(at(GOOD, path), dict) and path[-1] != "calls"]


def test_the_manifest_that_is_mutated_is_good():
    assert to_json(parse_manifest(json.dumps(GOOD))) == GOOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            put("inpaints", False),
            "components.unet.functions.full: (float32[1, 4, 8, 8], float32[1, 2], float32[1, 77, 1], "
            "float32[1, 8, 8, 1]) → ",
        ),
        (
            put(
                "components", "unet", "functions", "project_surroundings", "inputs", 0, "shape", [1, 4, 8, 8]
            ),
            "components.unet.functions.project_surroundings: (float32[1, 4, 8, 8]) → (float32[1, 8, 8, 1])",
        ),
        (
            put(
                "components", "unet", "functions", "project_surroundings", "outputs", 0, "shape", [1, 8, 8, 3]
            ),
            "components.unet.functions.full: (float32[1, 4, 8, 8], float32[1, 2], float32[1, 77, 1], ",
        ),
        (
            remove("components", "unet", "functions", "project_surroundings"),
            "float32[1, 77, 1], float32[1, 5, 8, 8]) → (float32[1, 4, 8, 8], float16[1, 1, 8, 8], "
            "float16[1, 1, 8, 8])",
        ),
        (
            put("components", "vae_encoder", "functions", "encode", "inputs", 1, "shape", [1, 64, 32]),
            "components.vae_encoder.functions.encode: (uint8[1, 64, 64, 3], uint8[1, 64, 32], ",
        ),
    ],
)
def test_a_manifest_whose_surroundings_do_not_fit(change, message):
    altered = copy.deepcopy(GOOD)
    change(altered)
    text = json.dumps(altered)
    read_in_cpp_as_in_python(text.encode())
    with pytest.raises(BundleError) as caught:
        parse_manifest(text)
    assert message in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(list(places(GOOD))), value=JSON_VALUES)
def test_any_value_anywhere_is_read_or_refused_in_words(place, value):
    altered = copy.deepcopy(GOOD)
    put(*place, value)(altered)
    text = json.dumps(altered)
    read_in_cpp_as_in_python(text.encode())
    try:
        manifest = parse_manifest(text)
    except BundleError as refused:
        error = refused
    else:
        # What is accepted says the same as what was written; a whole number may stand for a float.
        assert to_json(manifest) == {**to_json(manifest), **altered}
        return
    assert "manifest.json" in str(error)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_words(content):
    read_in_cpp_as_in_python(content)
    with pytest.raises(BundleError, match=r"manifest.json"):
        parse_manifest(content)


@settings(max_examples=200, deadline=None)
@given(place=st.sampled_from(OBJECTS), key=st.text(max_size=8))
def test_a_key_too_many_is_refused(place, key):
    altered = copy.deepcopy(GOOD)
    value = at(altered, place)
    assume(key not in value)
    value[key] = 1
    read_in_cpp_as_in_python(json.dumps(altered).encode())
    with pytest.raises(BundleError):
        parse_manifest(json.dumps(altered))


# What C++ refuses beside: numbers that no machine counts to.
NARROWER = ("too large for a whole number", "larger than any", "more than any")


def read_in_cpp_as_in_python(content):
    """Both accept, or both refuse."""
    in_python, in_cpp = None, None
    try:
        parse_manifest(content)
    except BundleError as error:
        in_python = error
    try:
        answer_of(native("check_manifest")(content))
    except BundleError as error:
        in_cpp = error
    if (in_python is None) != (in_cpp is None):
        assert in_python is None, f"C++ accepts what Python refuses: {in_python}"
        assert any(words in str(in_cpp) for words in NARROWER), in_cpp


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_altered_letters_of_a_manifest(data):
    content = bytearray(json.dumps(GOOD).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at_byte = data.draw(st.integers(0, len(content) - 1))
        content[at_byte : at_byte + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    read_in_cpp_as_in_python(bytes(content))


class TestWriting:
    def test_replaces_a_bundle_and_leaves_nothing_else(self, own_bundle):
        files = {path: own_bundle / path for path in open_bundle(own_bundle).manifest.files}
        contents = {name: path.read_bytes() for name, path in files.items()}
        written = write_bundle(own_bundle, dataclasses.replace(fake.manifest(), model="second"), contents)
        assert open_bundle(own_bundle).manifest == written
        assert written.model == "second"
        assert [path.name for path in own_bundle.parent.iterdir()] == ["bundle"]

    def test_contradiction_writes_nothing(self, tmp_path):
        with pytest.raises(BundleError, match=r"unet.so is not in the list of files|text_encoder.so is not"):
            write_bundle(tmp_path / "out", fake.manifest(), {"other.so": b""})
        assert list(tmp_path.iterdir()) == []

    def test_escaping_name_writes_nothing(self, tmp_path):
        with pytest.raises(BundleError, match=r"'../x' is not a plain relative file name"):
            write_bundle(tmp_path / "out", fake.manifest(), {"../x": b""})
        assert list(tmp_path.iterdir()) == []

    def test_interrupt_writes_nothing(self, own_bundle, tmp_path, monkeypatch):
        before = {path.name: path.read_bytes() for path in own_bundle.iterdir() if path.is_file()}
        files = {name: own_bundle / name for name in open_bundle(own_bundle).manifest.files}

        def interrupt(handle):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_bundle(own_bundle, fake.manifest(), files)
        assert {path.name: path.read_bytes() for path in own_bundle.iterdir() if path.is_file()} == before
        assert [path.name for path in tmp_path.iterdir()] == ["bundle"]

    def test_full_disk_leaves_the_old_bundle(self, own_bundle, monkeypatch):
        files = {name: (own_bundle / name).read_bytes() for name in open_bundle(own_bundle).manifest.files}

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(BundleError, match=r"bundle: cannot be written: No space left on device"):
            write_bundle(own_bundle, fake.manifest(), files)
        assert open_bundle(own_bundle).manifest.model == "fake"
        assert [path.name for path in own_bundle.parent.iterdir()] == ["bundle"]

    def test_refuses_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "thesis.tex").write_text("words")
        with pytest.raises(UsageError, match="holds files that are no bundle"):
            write_bundle(tmp_path, fake.manifest(), {})
        assert (tmp_path / "thesis.tex").read_text() == "words"
