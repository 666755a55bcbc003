"""Devices are enumerated, described and named."""

from __future__ import annotations

import json

import pytest
import tvm
import tvm_ffi

from ddimcache.runtime import devices, plugin
from ddimcache.runtime.devices import DeviceSpec, parse_device

RANK = {"gpu": 0, "accelerator": 1, "cpu": 2, "custom": 3}


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("opencl", DeviceSpec("opencl")),
        ("opencl:0", DeviceSpec("opencl")),
        ("opencl:12", DeviceSpec("opencl", 12)),
        ("llvm", DeviceSpec("llvm")),
        ("rpc://phone.local:9190/s23", DeviceSpec("rpc", host="phone.local", port=9190, key="s23")),
        ("rpc://[fe80::1]:9190/s23", DeviceSpec("rpc", host="fe80::1", port=9190, key="s23")),
    ],
)
def test_parse_device(text: str, spec: DeviceSpec) -> None:
    assert parse_device(text) == spec


@pytest.mark.parametrize("text", ["opencl", "opencl:3", "llvm", "rpc://host:1/key", "rpc://[::1]:2/key"])
def test_a_parsed_device_prints_as_it_was_written(text: str) -> None:
    assert str(parse_device(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cuda", "device 'cuda' is not known"),
        ("opencl:", "device 'opencl:' is not known"),
        ("opencl:-1", "device 'opencl:-1' is not known"),
        ("opencl:1x", "device 'opencl:1x' is not known"),
        ("", "device '' is not known"),
        ("llvm:1", "there is one llvm device"),
        ("rpc://host/key", "is not of the form rpc://host:port/key"),
        ("rpc://host:port/key", "is not of the form rpc://host:port/key"),
        ("rpc://host:0/key", "port 0 is not between 1 and 65535"),
        ("rpc://host:65536/key", "port 65536 is not between 1 and 65535"),
    ],
)
def test_a_wrong_device_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_device(text)


@pytest.mark.opencl
def test_devices_come_in_order_and_describe_themselves() -> None:
    found = devices.list_devices()
    assert [device.index for device in found] == list(range(len(found)))
    assert [RANK[device.type] for device in found] == sorted(RANK[device.type] for device in found)
    for device in found:
        assert device.name
        assert device.version.startswith("OpenCL ")
        assert device.max_alloc_bytes >= 1 << 20
        assert device.max_kernel_argument_bytes >= 256
        assert device.compute_units >= 1
        assert device.fp16 == ("cl_khr_fp16" in device.extensions)
        assert not device.images or min(device.image2d_max_width, device.image2d_max_height) >= 2048
    assert devices.describe_missing() is None
    assert plugin.problem() is None
    assert devices.opencl_library()


@pytest.mark.opencl
def test_enumeration_is_stable() -> None:
    first = tvm_ffi.get_global_func("ddimcache.opencl.devices")()
    assert json.loads(first) == json.loads(tvm_ffi.get_global_func("ddimcache.opencl.devices")())


@pytest.mark.opencl
def test_tvm_sees_the_same_device() -> None:
    for info in devices.list_devices():
        device = tvm.runtime.device("opencl", info.index)
        assert device.exist
        assert device.device_name == info.name
        assert device.max_threads_per_block == info.max_work_group_size
        assert device.max_shared_memory_per_block == info.local_mem_bytes
        assert device.multi_processor_count == info.compute_units
        assert device.max_clock_rate == info.max_clock_mhz * 1000
        assert list(device.max_thread_dimensions) == list(info.max_work_item_sizes)
        assert info.version.startswith(f"OpenCL {device.compute_version}")
        assert device.total_global_memory == info.global_mem_bytes
        assert 0 < device.available_global_memory <= info.global_mem_bytes
        assert device.warp_size == 1


@pytest.mark.opencl
def test_a_device_that_is_not_there() -> None:
    count = len(devices.list_devices())
    assert not tvm.runtime.device("opencl", count).exist
    with pytest.raises(ValueError, match=rf"there is no device opencl:{count}; this machine has opencl:0"):
        tvm.runtime.empty((1,), "float32", tvm.runtime.device("opencl", count))
    with pytest.raises(ValueError, match=rf"there is no device opencl:{count}"):
        devices.memory_use(count)
