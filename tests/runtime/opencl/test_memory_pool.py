"""What is in use by kind, what is kept for reuse, and the budget."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax, s_tir, te
from tvm.relax.frontend import nn

from ddimcache.runtime import devices
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl

SLOW = """
__kernel void slow(__global float* out, __global const float* in, int rounds) {
  float x = in[get_global_id(0)];
  for (int i = 0; i < rounds; ++i) x = x * 0.5f + 1.0f;
  out[get_global_id(0)] = x;
}
"""


@pytest.fixture(autouse=True)
def nothing_idle_and_no_budget(device: tvm.runtime.Device) -> Iterator[None]:
    """Every test begins with an empty pool and ends without a budget."""
    limit = devices.memory_use().idle_limit_bytes
    gc.collect()
    devices.release_idle()
    yield
    devices.set_memory_budget(0, 0)
    devices.set_idle_limit(0, limit)


class Chain(nn.Module):
    """Needs storage for what is between the two products."""

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        y = nn.op.matmul(x, x)
        return nn.op.matmul(y, nn.op.softmax(y, axis=-1))


def machine(module: nn.Module, side: int = 64, allocator: str = "pooled") -> relax.VirtualMachine:
    built, _ = module.export_tvm({"forward": {"x": nn.spec.Tensor((side, side), "float32")}})
    executable = tvm.compile(built, target=tvm.target.Target(programs.TARGET, host="llvm"))
    return relax.VirtualMachine(executable, tvm.runtime.device("opencl", 0), memory_cfg=allocator)


def floats(count: int) -> tvm.runtime.Tensor:
    return tvm.runtime.empty((count,), "float32", tvm.runtime.device("opencl", 0))


def bytes_by_kind() -> dict[str, int]:
    return {name: use.current_bytes for name, use in devices.memory_use().kinds.items()}


def two_kernels_with_scratch(elements: int) -> tvm.runtime.Executable:
    """``C = (A + 1) * 2`` whose host code allocates what is between the two kernels."""
    source = te.placeholder((elements,), name="A", dtype="float32")
    between = te.compute((elements,), lambda i: source[i] + tvm.tirx.const(1, "float32"), name="B")
    result = te.compute((elements,), lambda i: between[i] * tvm.tirx.const(2, "float32"), name="C")
    schedule = s_tir.Schedule(te.create_prim_func([source, result]))
    for name in "BC":
        (loop,) = schedule.get_loops(schedule.get_sblock(name))
        block, thread = schedule.split(loop, [None, 64])
        schedule.bind(block, "blockIdx.x")
        schedule.bind(thread, "threadIdx.x")
    return tvm.compile(schedule.mod, target=tvm.target.Target(programs.TARGET, host="llvm"))


def test_scratch_of_kernels_is_workspace(device: tvm.runtime.Device) -> None:
    before = devices.memory_use()
    devices.reset_peak()
    function = two_kernels_with_scratch(2048)
    source = tvm.runtime.tensor(np.arange(2048, dtype="float32"), device)
    target = floats(2048)
    for _ in range(3):
        function(source, target)
    np.testing.assert_array_equal(target.numpy(), (np.arange(2048) + 1) * 2)
    after = devices.memory_use()
    assert after.kinds["workspace"].peak_bytes == before.kinds["workspace"].current_bytes + 8192
    assert after.kinds["workspace"].current_bytes == before.kinds["workspace"].current_bytes
    assert after.idle_bytes == before.idle_bytes + 8192


@pytest.mark.parametrize("kind", devices.MEMORY_KINDS)
def test_a_scope_decides_the_kind(kind: str) -> None:
    before = bytes_by_kind()
    with devices.memory_kind(kind):
        tensor = floats(1000)
        with devices.memory_kind("images" if kind == "other" else "other"):
            pass
        second = floats(10)
    after = bytes_by_kind()
    assert after == {**before, kind: before[kind] + 4040}
    outside = floats(3)
    assert bytes_by_kind()["other"] == after["other"] + 12
    del tensor, second, outside
    assert bytes_by_kind() == before


def test_an_unknown_kind_is_refused_and_changes_nothing() -> None:
    expected = "there is no kind of memory 'heap'; there are weights, act"
    with pytest.raises(ValueError, match=expected), devices.memory_kind("heap"):
        raise AssertionError("went in")
    with pytest.raises(ValueError, match='there is no kind of memory "heap"; there are weights, act'):
        tvm.get_global_func("ddimcache.opencl.memory_kind")("heap")
    before = bytes_by_kind()["other"]
    tensor = floats(5)
    assert bytes_by_kind()["other"] == before + 20
    del tensor


def test_kinds_belong_to_threads() -> None:
    before = bytes_by_kind()
    inside, leave = threading.Event(), threading.Event()

    def other_thread() -> None:
        with devices.memory_kind("weights"):
            inside.set()
            assert leave.wait(60)

    thread = threading.Thread(target=other_thread)
    thread.start()
    assert inside.wait(60)
    tensor = floats(7)
    assert bytes_by_kind() == {**before, "other": before["other"] + 28}
    leave.set()
    thread.join()
    del tensor


def test_storage_of_the_vm_is_activations_and_idles_between_calls() -> None:
    forward = machine(Chain())["forward"]
    x = tvm.runtime.tensor(np.eye(64, dtype="float32"), tvm.runtime.device("opencl", 0))
    gc.collect()
    devices.release_idle()
    before = devices.memory_use()
    devices.reset_peak()
    result = forward(x)
    np.testing.assert_allclose(result.numpy().sum(), 64, rtol=1e-5)
    during = devices.memory_use()
    # The result is held, what was between is not; pages of 4096 bytes.
    assert during.kinds["activations"].current_bytes == before.kinds["activations"].current_bytes + 16384
    assert during.idle_bytes >= before.idle_bytes + 16384
    assert during.kinds["activations"].peak_bytes >= before.kinds["activations"].current_bytes + 2 * 16384
    del result
    forward(x)  # the VM holds the last result until its next one
    warm = devices.memory_use()
    for _ in range(3):
        forward(x)
    assert devices.memory_use().peak_bytes == warm.peak_bytes  # reused, not allocated again
    del forward
    gc.collect()
    devices.release_idle()
    after = devices.memory_use()
    assert (after.current_bytes, after.live_buffers) == (before.current_bytes, before.live_buffers)
    assert after.idle_bytes == 0


def test_the_naive_allocator_keeps_nothing() -> None:
    forward = machine(Chain(), allocator="naive")["forward"]
    x = tvm.runtime.tensor(np.eye(64, dtype="float32"), tvm.runtime.device("opencl", 0))
    before = devices.memory_use()
    for _ in range(2):
        forward(x)
        after = devices.memory_use()
        # The VM holds the last result until its next one.
        assert (after.idle_bytes, after.current_bytes) == (0, before.current_bytes + 16384)


def test_idle_memory_is_bounded_and_the_longest_idle_goes_first() -> None:
    """Three sizes, a bound that holds two: what was used last is still there."""
    devices.set_idle_limit(0, 300_000)
    machines = [machine(Chain(), side) for side in (64, 128, 160)]
    for one, side in zip(machines, (64, 128, 160), strict=True):
        x = tvm.runtime.tensor(np.zeros((side, side), "float32"), tvm.runtime.device("opencl", 0))
        one["forward"](x)
        assert devices.memory_use().idle_bytes <= 300_000
    assert devices.memory_use().idle_bytes > 0
    devices.set_idle_limit(0, 0)
    assert devices.memory_use().idle_bytes == 0


def test_the_budget_is_enforced_and_says_what_is_in_use(device: tvm.runtime.Device) -> None:
    with devices.memory_kind("weights"):
        weights = floats(1000)
    use = devices.memory_use()
    budget = use.current_bytes + 10_000
    devices.set_memory_budget(0, budget)
    fits = floats(2500)
    with pytest.raises(RuntimeError) as raised:
        floats(1)
    message = str(raised.value)
    kinds = bytes_by_kind()
    assert f"OpenCL buffer of 4 bytes for other goes over the memory budget of {budget} bytes on" in message
    assert f"weights {kinds['weights']}, activations {kinds['activations']}," in message
    assert "raise the budget, release other components first, or make a smaller picture" in message
    with pytest.raises(RuntimeError, match="OpenCL image of 96 bytes for images goes over the memory budget"):
        tvm.runtime.empty((2, 3, 4), "float32", device, mem_scope="global.texture")
    assert devices.memory_use().peak_bytes <= max(budget, use.peak_bytes)
    del fits
    again = floats(2500)
    del again, weights
    with pytest.raises(ValueError, match="a memory budget of -1 bytes is below zero"):
        devices.set_memory_budget(0, -1)


def test_idle_memory_gives_way_to_the_budget() -> None:
    forward = machine(Chain())["forward"]
    x = tvm.runtime.tensor(np.eye(64, dtype="float32"), tvm.runtime.device("opencl", 0))
    for _ in range(2):  # the VM holds the last result until its next one
        forward(x)
    use = devices.memory_use()
    assert use.idle_bytes >= 2 * 16384
    devices.set_memory_budget(0, use.current_bytes)
    larger = floats(use.idle_bytes // 4 - 1024)
    use = devices.memory_use()
    assert use.current_bytes <= use.budget_bytes
    assert use.idle_bytes < 16384  # no whole block of it is left
    del larger
    np.testing.assert_allclose(forward(x).numpy().sum(), 64, rtol=1e-5)
    assert devices.memory_use().current_bytes <= use.budget_bytes


def test_a_budget_below_what_is_in_use_refuses_more_only() -> None:
    tensor = tvm.runtime.tensor(np.arange(100, dtype="float32"), tvm.runtime.device("opencl", 0))
    devices.set_memory_budget(0, 1)
    with pytest.raises(RuntimeError, match="goes over the memory budget of 1 bytes"):
        floats(1)
    np.testing.assert_array_equal(tensor.numpy(), np.arange(100))


def test_waiting_memory_is_waited_for_before_the_budget_fails(device: tvm.runtime.Device) -> None:
    """A buffer freed under a running kernel counts until that has run, and an allocation waits for it."""
    slow = programs.kernel(SLOW, "slow", ["handle", "handle", "int32"])
    out = floats(64)
    use = devices.memory_use()
    devices.set_memory_budget(0, use.current_bytes + 400_000)
    for _ in range(4):
        temporary = tvm.runtime.tensor(np.zeros(90_000, "float32"), device)
        slow(programs.handle(out), programs.handle(temporary), 3_000_000, 1, 64)
        del temporary
        other_size = floats(90_001)
        slow(programs.handle(out), programs.handle(other_size), 10, 1, 64)
        del other_size
    assert devices.memory_use().peak_bytes <= max(use.peak_bytes, use.current_bytes + 400_000)


def test_freeing_does_not_wait_for_the_device(device: tvm.runtime.Device) -> None:
    """More than ever waited at a free: after hundreds of frees the kernel that came first still runs."""
    slow = programs.kernel(SLOW, "slow", ["handle", "handle", "int32"])
    out = floats(64)
    temporaries = [floats(64 + index) for index in range(200)]
    device.sync()
    slow(programs.handle(out), programs.handle(temporaries[0]), 2_000_000, 1, 64)
    for tensor in temporaries:
        slow(programs.handle(out), programs.handle(tensor), 1, 1, 64)
    del tensor
    temporaries.clear()
    assert devices.memory_use(wait=False).waiting_bytes >= 200 * 64 * 4
    assert devices.memory_use().waiting_bytes == 0


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_counters_add_up_whatever_is_done(data: st.DataObject) -> None:
    """Random allocations, frees, kinds, budgets and drops: the sums agree, and everything comes back."""
    devices.set_memory_budget(0, 0)
    gc.collect()
    devices.release_idle()
    base = devices.memory_use()
    held: list[tuple[str, int, tvm.runtime.Tensor]] = []
    budget = 0
    for _ in range(data.draw(st.integers(1, 25))):
        action = data.draw(st.sampled_from(["allocate", "free", "release idle", "budget"]))
        if action == "allocate":
            kind = data.draw(st.sampled_from(devices.MEMORY_KINDS))
            count = data.draw(st.integers(1, 5000))
            mine = sum(size for _, size, _ in held)
            with devices.memory_kind(kind):
                if budget and base.current_bytes + mine + 4 * count > budget:
                    with pytest.raises(RuntimeError, match=f"{4 * count} bytes for {kind} goes over"):
                        floats(count)
                else:
                    held.append((kind, 4 * count, floats(count)))
        elif action == "free" and held:
            held.pop(data.draw(st.integers(0, len(held) - 1)))
        elif action == "release idle":
            devices.release_idle()
        elif action == "budget":
            budget = data.draw(st.sampled_from([0, base.current_bytes + 20_000]))
            devices.set_memory_budget(0, budget)
        use = devices.memory_use()
        assert use.current_bytes == sum(k.current_bytes for k in use.kinds.values()) + use.idle_bytes
        for kind in devices.MEMORY_KINDS:
            expected = sum(size for of, size, _ in held if of == kind)
            assert use.kinds[kind].current_bytes == base.kinds[kind].current_bytes + expected
    held.clear()
    devices.set_memory_budget(0, 0)
    devices.release_idle()
    use = devices.memory_use()
    assert (use.current_bytes, use.live_buffers) == (base.current_bytes, base.live_buffers)


def test_threads_never_exceed_the_budget_together(device: tvm.runtime.Device) -> None:
    gc.collect()
    base = devices.memory_use()
    budget = base.current_bytes + 100_000
    devices.reset_peak()
    devices.set_memory_budget(0, budget)
    refused, done, wrong = [0] * 4, [0] * 4, []

    def work(index: int) -> None:
        rng = np.random.default_rng(index)
        held: list[tuple[np.ndarray, tvm.runtime.Tensor]] = []
        try:
            for _ in range(150):
                array = rng.integers(0, 100, rng.integers(1, 8000)).astype("int32")
                try:
                    held.append((array, tvm.runtime.tensor(array, device)))
                    done[index] += 1
                except RuntimeError as error:
                    if "goes over the memory budget" not in str(error):
                        raise
                    refused[index] += 1
                if len(held) > 2:
                    expected, tensor = held.pop(0)
                    np.testing.assert_array_equal(tensor.numpy(), expected)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]
    assert min(done) > 0
    assert sum(refused) > 0  # the budget was felt
    gc.collect()
    use = devices.memory_use()
    assert base.current_bytes < use.peak_bytes <= budget
    assert (use.current_bytes, use.live_buffers) == (base.current_bytes, base.live_buffers)
