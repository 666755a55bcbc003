"""``ddimcache bench decoder``, on a model that compiles in seconds."""

import numpy as np
import pytest

from ddimcache.bench import decoder, turns
from tests.kit.family import stand_in
from tests.kit.shared_bundles import compiled


@pytest.fixture
def bench(run):
    model = stand_in("tiny-sd15")
    subject = ("--model", compiled(model, target="llvm").folder, "--reference", model)
    return lambda *options: run("bench", "decoder", *subject, "--device", "llvm", *options)


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
