"""``ddimcache bench decoder``, on a model that compiles in seconds."""

import numpy as np
import pytest

from ddimcache.bench import decoder, turns
from tests.kit.family import stand_in


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A cache folder that lasts for the module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DDIMCACHE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def bench(run, kept):
    model = stand_in("tiny-bk")
    return lambda *options: run("bench", "decoder", "--model", model, "--device", "llvm", *options)


def test_a_picture_is_right_and_timed(bench):
    result = bench("--repeats", 1, "--json").json
    assert result["levels"] <= decoder.MOST_LEVELS
    peer = result["peers"]["torch"]
    assert peer["ratio"] == pytest.approx(peer["seconds"] / result["seconds"])
    assert min(result["weights_bytes"], result["activation_bytes"], result["kernels"]) > 0


def test_table(bench):
    done = bench("--repeats", 1)
    assert done.code == 0
    assert "× ours" in done.out


def test_a_wrong_picture_is_not_timed(bench, monkeypatch):
    right = decoder.TorchDecoder.__call__
    monkeypatch.setattr(
        decoder.TorchDecoder, "__call__", lambda self, latents: right(self, latents) ^ np.uint8(8)
    )
    monkeypatch.setattr(turns, "seconds_a_call", lambda *_: pytest.fail("timed a wrong answer"))
    done = bench()
    assert done.code == 1
    assert "of 255 levels away from PyTorch's" in done.err


def test_bad_options_are_refused(bench):
    done = bench("--repeats", 0)
    assert done.code == 2
    assert "--repeats" in done.err
