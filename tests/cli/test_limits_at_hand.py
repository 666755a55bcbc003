"""Verbs that compile for a device of this machine keep within what it takes."""

from types import SimpleNamespace

import pytest

from ddimcache.commands import choose
from ddimcache.compiler.options import CompileOptions
from ddimcache.compiler.target import profile


def device(name, **lower):
    known = profile("opencl")
    limits = {
        "max_work_group_size": known.max_threads,
        "local_mem_bytes": known.max_local_memory,
        "max_alloc_bytes": known.max_allocation,
        "max_kernel_argument_bytes": known.max_argument_bytes,
    }
    return SimpleNamespace(name=name, **(limits | lower))


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    devices = [device("Large"), device("Small", max_work_group_size=64, local_mem_bytes=0)]
    monkeypatch.setattr(choose, "list_devices", lambda: devices)
    monkeypatch.setattr(choose, "describe_missing", lambda: None)
    monkeypatch.setattr(choose, "open_device", lambda spec, kind: None)
    monkeypatch.setattr(choose, "device_name", lambda spec: devices[spec.index].name)


@pytest.mark.parametrize(
    ("text", "limits"), [("opencl", ()), ("opencl:1", ("max_threads=64",)), ("llvm", ())]
)
def test_the_device_that_is_named_decides(text, limits, capsys):
    """A device that does not say what it takes (0) lowers nothing."""
    chosen = choose.choose_device(text)
    assert chosen.limits == limits
    options = CompileOptions(**chosen.compile_choices)
    assert (options.target, options.limits) == (text.partition(":")[0], limits)
    told = "Small takes less than target opencl: max_threads=64" in capsys.readouterr().err
    assert told == bool(limits)


def test_other_targets_and_hosts_are_not_asked():
    assert choose.limits_at_hand("adreno-740", None, 1) == []
    assert choose.limits_at_hand("opencl", "aarch64-linux-gnu", 1) == []
    assert choose.limits_at_hand("opencl", None, 1) == ["max_threads=64"]
