"""Weights whose header lies: C++ reads a file of safetensors right, or refuses it in words."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ddimcache.errors import BundleError
from ddimcache.runtime.native import answer_of, native
from tests.fakes import fake_bundle as fake

WEIGHTS = fake.weights("llvm")["unet"]
SPECS = [{"name": name, "shape": list(a.shape), "dtype": a.dtype.name} for name, a in WEIGHTS.items()]


def read(path: Path) -> dict[str, np.ndarray]:
    """What C++ makes of a file with the weights of the fake's UNet."""
    _, body = answer_of(native("read_weights")(str(path), json.dumps(SPECS).encode()))
    arrays, at = {}, 0
    for name, array in WEIGHTS.items():
        arrays[name] = np.frombuffer(body, array.dtype, array.size, at).reshape(array.shape)
        at += array.nbytes
    assert at == len(body)
    return arrays


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "good.safetensors"
    save_file(WEIGHTS, path)
    return path


def same(ours: dict[str, np.ndarray]) -> bool:
    return all(ours[name].tobytes() == array.tobytes() for name, array in WEIGHTS.items())


def test_a_good_file(good):
    assert same(read(good))


def write(path: Path, header: bytes, data: bytes) -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def parts(good: Path) -> tuple[dict, bytes]:
    content = good.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def change(*path_and_value):
    def edit(header):
        *path, last, value = path_and_value
        for key in path:
            header = header[key]
        header[last] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (change("mix", "data_offsets", [0, 1 << 40]), "mix.data_offsets: bytes 0 to 1099511627776 of"),
        (change("mix", "data_offsets", [4, 0]), "mix.data_offsets: bytes 4 to 0 of"),
        (change("mix", "data_offsets", [-4, 0]), "mix.data_offsets[0]: is -4, below the least allowed"),
        (change("mix", "data_offsets", [0]), "mix.data_offsets: expected 2 items, found 1"),
        (change("mix", "data_offsets", [0.0, 4.0]), "expected a whole number"),
        (change("mix", "shape", [1 << 62, 1 << 62]), "makes a tensor larger than the file"),
        (change("mix", "shape", [0, 1 << 62]), "data_offsets: bytes"),
        (change("mix", "shape", [-4]), "mix.shape[0]: is -4, below"),
        (change("mix", "shape", [5]), "mix.data_offsets: bytes"),
        (change("mix", "dtype", "F64"), "mix.dtype: 'F64' is no type of a bundle"),
        (change("mix", "dtype", "U8"), "weight 'mix' is uint8[4], the manifest says int8[4]"),
        (change("mix", "shape", [2, 2]), "weight 'mix' is int8[2, 2], the manifest says int8[4]"),
        (change("mix", "more", 1), "mix: unknown key 'more'"),
        (change("__metadata__", {"format": 3}), "__metadata__.format: expected a text"),
        (change("mix", []), "mix: expected an object, found a list"),
        (lambda header: header.pop("gain"), "the tensors do not lie end to end"),
        (lambda header: header["mix"].pop("dtype"), "mix: key 'dtype' is missing"),
        (
            lambda header: header.update(again=dict(header["mix"])),
            "the tensors do not lie end to end",
        ),
    ],
)
def test_a_header_that_lies(good, tmp_path, edit, message):
    header, data = parts(good)
    edit(header)
    path = write(tmp_path / "bad.safetensors", json.dumps(header).encode(), data)
    with pytest.raises(BundleError) as caught:
        read(path)
    assert message in str(caught.value)
    assert "bad.safetensors" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has 0 bytes"),
        (b"\x01\0\0", "it has 3 bytes"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "a header of 18446744073709551615 bytes in a file of 10"),
        (struct.pack("<Q", 3) + b"{}", "a header of 3 bytes in a file of 10"),
        (struct.pack("<Q", 2) + b"[]", "expected an object, found a list"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "nested deeper than"),
        (struct.pack("<Q", 15) + b'{"a":1, "a": 2}', "'a' appears twice"),
        (struct.pack("<Q", 2) + b"{}" + b"more", "bytes behind the last tensor"),
        (struct.pack("<Q", 2) + b"{}", "weight 'mix' is in the manifest but not in the file"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read(path)
    assert message in str(caught.value)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_is_refused_or_read_as_the_library_reads_it(good, tmp_path, data):
    content = bytearray(good.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(content)
    try:
        ours = read(path)
    except BundleError as error:
        refused = error
    else:
        theirs = load_file(path)
        assert all(ours[name].tobytes() == theirs[name].tobytes() for name in WEIGHTS)
        return
    assert "damaged.safetensors" in str(refused)


def test_a_link_and_a_folder(good, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(BundleError, match="is not a file"):
        read(tmp_path / "folder")
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        read(tmp_path / "nothing")
    shutil.copy(good, tmp_path / "copy")
    assert same(read(tmp_path / "copy"))
