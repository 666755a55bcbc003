"""Inception V3's features against the network written down plainly, and files that are no such weights."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional

from ddimcache.errors import FrontendError
from ddimcache.quality.inception import InceptionFeatures
from tests.kit.family import single_thread
from tests.kit.real_models import inception_state

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def state():
    return inception_state(1008)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from single_thread()


def plain_features(state, pictures, is_fid):
    """Szegedy et al.'s network, layer by layer: float32 (N, 3, 299, 299) to (N, 2048)."""

    def conv(name, value, stride=1, padding=0):
        value = functional.conv2d(value, state[f"{name}.conv.weight"], None, stride, padding)
        norm = [state[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return functional.batch_norm(value, *norm, eps=1e-3).relu()

    def average(value):
        return functional.avg_pool2d(value, 3, 1, 1, count_include_pad=not is_fid)

    x = conv("Conv2d_1a_3x3", pictures, 2)
    x = conv("Conv2d_2b_3x3", conv("Conv2d_2a_3x3", x), 1, 1)
    x = functional.max_pool2d(x, 3, 2)
    x = functional.max_pool2d(conv("Conv2d_4a_3x3", conv("Conv2d_3b_1x1", x)), 3, 2)
    for block in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
        five = conv(f"{block}.branch5x5_2", conv(f"{block}.branch5x5_1", x), 1, 2)
        deep = conv(f"{block}.branch3x3dbl_2", conv(f"{block}.branch3x3dbl_1", x), 1, 1)
        deep = conv(f"{block}.branch3x3dbl_3", deep, 1, 1)
        pool = conv(f"{block}.branch_pool", average(x))
        x = torch.cat([conv(f"{block}.branch1x1", x), five, deep, pool], 1)
    deep = conv("Mixed_6a.branch3x3dbl_2", conv("Mixed_6a.branch3x3dbl_1", x), 1, 1)
    deep = conv("Mixed_6a.branch3x3dbl_3", deep, 2)
    x = torch.cat([conv("Mixed_6a.branch3x3", x, 2), deep, functional.max_pool2d(x, 3, 2)], 1)
    row, column = (0, 3), (3, 0)
    for block in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
        seven = conv(f"{block}.branch7x7_2", conv(f"{block}.branch7x7_1", x), 1, row)
        seven = conv(f"{block}.branch7x7_3", seven, 1, column)
        deep = conv(f"{block}.branch7x7dbl_1", x)
        for number, padding in ((2, column), (3, row), (4, column), (5, row)):
            deep = conv(f"{block}.branch7x7dbl_{number}", deep, 1, padding)
        pool = conv(f"{block}.branch_pool", average(x))
        x = torch.cat([conv(f"{block}.branch1x1", x), seven, deep, pool], 1)
    three = conv("Mixed_7a.branch3x3_2", conv("Mixed_7a.branch3x3_1", x), 2)
    seven = conv("Mixed_7a.branch7x7x3_2", conv("Mixed_7a.branch7x7x3_1", x), 1, row)
    seven = conv("Mixed_7a.branch7x7x3_4", conv("Mixed_7a.branch7x7x3_3", seven, 1, column), 2)
    x = torch.cat([three, seven, functional.max_pool2d(x, 3, 2)], 1)
    for block in ("Mixed_7b", "Mixed_7c"):
        three = conv(f"{block}.branch3x3_1", x)
        deep = conv(f"{block}.branch3x3dbl_2", conv(f"{block}.branch3x3dbl_1", x), 1, 1)
        parts = [conv(f"{block}.branch1x1", x)]
        for value, name in ((three, "branch3x3_2"), (deep, "branch3x3dbl_3")):
            parts.append(conv(f"{block}.{name}a", value, 1, (0, 1)))
            parts.append(conv(f"{block}.{name}b", value, 1, (1, 0)))
        largest = is_fid and block == "Mixed_7c"
        pooled = functional.max_pool2d(x, 3, 1, 1) if largest else average(x)
        x = torch.cat([*parts, conv(f"{block}.branch_pool", pooled)], 1)
    return x.mean((2, 3))


@pytest.mark.parametrize("classes", [1008, 1000])
def test_features_are_those_of_the_network(state, classes, tmp_path):
    state = {**state, "fc.weight": torch.zeros(classes, 2048), "fc.bias": torch.zeros(classes)}
    file = tmp_path / ("inception.safetensors" if classes == 1008 else "inception.pth")
    save_file(state, file) if classes == 1008 else torch.save(state, file)
    inception = InceptionFeatures(tmp_path)  # the only file of the folder
    assert inception.is_fid == (classes == 1008)
    random = np.random.default_rng(classes)
    pictures = [random.integers(0, 256, size, np.uint8) for size in ((299, 299, 3), (40, 64, 3))]
    found = inception.of(iter(pictures))
    assert (found.shape, found.dtype) == ((2, 2048), np.float64)
    scaled = [
        functional.interpolate(
            torch.tensor(each).permute(2, 0, 1)[None] / 127.5 - 1, (299, 299), mode="bilinear"
        )
        for each in pictures
    ]
    expected = plain_features(state, torch.cat(scaled), classes == 1008)
    assert expected.std(0).mean() > 1e-3  # the two pictures differ
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


class _Runs:
    def __reduce__(self):
        return print, ("a file that runs",)


def test_a_pickle_is_not_run(tmp_path, capsys):
    file = tmp_path / "inception.pth"
    file.write_bytes(pickle.dumps({"fc.weight": _Runs()}))
    with pytest.raises(FrontendError, match=r"cannot be read as tensors alone: .*; save the network's state"):
        InceptionFeatures(file)
    torch.save(_Runs(), file)
    with pytest.raises(FrontendError, match="cannot be read as tensors alone"):
        InceptionFeatures(file)
    assert capsys.readouterr().out == ""


def test_a_scripted_network_is_refused(tmp_path):
    file = tmp_path / "inception.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
    with pytest.raises(FrontendError, match="cannot be read as tensors alone"):
        InceptionFeatures(file)


def test_other_files_are_refused(state, tmp_path):
    def refused(message, path):
        with pytest.raises(FrontendError, match=message):
            InceptionFeatures(path)

    refused("is neither .safetensors nor a state dict", tmp_path / "inception.onnx")
    refused("does not exist", tmp_path / "missing.pth")
    refused("cannot be read", tmp_path / "missing.safetensors")
    refused("holds no weights", tmp_path)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\xff" * 20)
    refused("not a whole safetensors file", torn)
    few = tmp_path / "few.safetensors"
    save_file({"fc.weight": torch.zeros(3, 2)}, few)
    refused("holds 2 files of weights: few.safetensors, torn.safetensors", tmp_path)
    refused("`Conv2d_1a_3x3.conv.weight` is missing; name weights of Inception V3", few)
    torch.save([1, 2], tmp_path / "list.pth")
    refused("holds something else than a state dict", tmp_path / "list.pth")
    name = "Mixed_7c.branch1x1.conv.weight"
    for wrong, message in (
        (
            state[name][:-1],
            r"is torch.float32 of shape \[319, 2048, 1, 1\], Inception V3 has floats of \[320,",
        ),
        (state[name].to(torch.int8), "is torch.int8 of shape"),
        (state[name] * torch.nan, f"`{name}` holds a NaN or an infinity"),
    ):
        torch.save({**state, name: wrong}, tmp_path / "wrong.pth")
        refused(message, tmp_path / "wrong.pth")
