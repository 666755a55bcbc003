"""Commands matched with launches, and their sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from ddimcache.errors import BundleError, RemoteError
from ddimcache.launches import LaunchLists
from ddimcache.profile import report
from ddimcache.profile.match import Call, Image, expected_calls, match
from ddimcache.profile.trace import chrome_trace
from ddimcache.runtime.devices import Command
from ddimcache.runtime.profiler import Timeline
from tests.profile.images import LISTS, PEAKS, timeline


@dataclass
class Lists:
    """A bundle as far as matching reads it."""

    folder: Path = Path("bundle")
    lists: dict[str, LaunchLists] = field(default_factory=lambda: LISTS)

    def launches(self, component: str) -> LaunchLists:
        return self.lists[component]


def matched(calls: list[Call], commands: Timeline | None = None) -> Image:
    return match(commands or timeline(calls), calls, Lists())  # type: ignore[arg-type]


def functions(calls: list[Call]) -> list[str]:
    return [call.function for call in calls]


def test_calls_of_an_image() -> None:
    loop = ["next_step", "full", "step", "next_step", "cached", "step", "next_step", "full", "step"]
    assert functions(expected_calls(3, 2, False)) == ["encode", *loop, "decode"]
    guided = expected_calls(2, 5, True)
    assert functions(guided) == [
        *("encode", "encode"),
        *("next_step", "full", "full", "guide_and_step"),
        *("next_step", "cached", "cached", "guide_and_step"),
        "decode",
    ]
    assert [call.step for call in guided] == [None, None, 0, 0, 0, 0, 1, 1, 1, 1, None]
    assert functions(expected_calls(2, 5, True, in_one_call=True)) == [
        *("encode", "encode"),
        *("next_step", "full_guided", "guide_both_and_step"),
        *("next_step", "cached_guided", "guide_both_and_step"),
        "decode",
    ]
    assert expected_calls(2, 5, False, in_one_call=True) == expected_calls(2, 5, False)
    once = functions(expected_calls(65, 1, True, ("full", "project_context", "embed_time")))
    assert once[:5] == ["encode", "encode", "project_context", "project_context", "embed_time"]
    # Before the first step, and before the one that is not among the first 64.
    assert [place for place, name in enumerate(once) if name == "embed_time"] == [4, 5 + 64 * 4]


def test_every_command_finds_its_launch() -> None:
    image = matched(expected_calls(2, 2, False))
    assert [timed.launch.kernel for timed in image.launches] == [
        *("embed", "next_step", "conv", "norm", "conv", "step"),
        *("next_step", "conv", "conv", "step", "decode_all"),
    ]
    assert [copy.name for copy in image.copies] == ["copy host to device"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[:-1],
            "launch 10 of the image was nothing, its lists of launches say decode_all of deco",
        ),
        (
            lambda rows: np.concatenate([rows, rows[-1:]]),
            "launch 11 of the image was decode_all_kernel, .* nothing more",
        ),
        (lambda rows: np.delete(rows, 4, 0), "launch 3 of the image was conv_kernel, .* say norm of full"),
    ],
)
def test_another_kernel_than_listed_is_refused(change, message: str) -> None:
    calls = expected_calls(2, 2, False)
    good = timeline(calls)
    with pytest.raises(BundleError, match=message):
        matched(calls, Timeline(good.names, change(good.commands)))


def test_several_device_kernels_of_one_launch_are_one() -> None:
    calls = [Call("text_encoder", "encode")]
    rows = np.asarray([(0, 0, 10, 20), (1, 0, 25, 40)], np.int64)
    [timed] = matched(calls, Timeline(("embed_kernel", "embed_kernel_1"), rows)).launches
    assert (timed.start, timed.end) == (10, 40)


def test_sums_by_kernel() -> None:
    rows = report.kernels(matched(expected_calls(2, 2, False)), PEAKS, "float32")
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    conv = rows[0]
    assert (conv["name"], conv["component"], conv["calls"]) == ("conv", "unet", 4)
    assert conv["layers"] == ["conv_in", "conv_out"]
    assert conv["seconds"] == pytest.approx(8e-6)
    assert conv["seconds_minimum"] == pytest.approx(2e-6)
    assert conv["gflops"] == pytest.approx(4000 / 8e-6 / 1e9)
    # 1000 operations at 100 GFLOP/s are 10 ns, 1000 bytes at 10 GB/s are 100 ns; a launch took 2000 ns.
    assert conv["roofline"] == pytest.approx(0.05)
    assert conv["limit"] == "memory"


def test_limit_of_arithmetic() -> None:
    row = {"seconds": 1e-6, "flops": 50_000, "bytes": 1000}
    assert report.rates(row, PEAKS, "float16") == pytest.approx(
        {"gflops": 50, "gbytes": 1, "roofline": 0.5, "limit": "arithmetic"}
    )


def test_sums_by_layer_are_the_sums_by_kernel() -> None:
    image = matched(expected_calls(5, 2, True))
    by_kernel = report.kernels(image, PEAKS, "float32")
    by_layer = report.layers(image)
    for key in ("calls", "seconds", "flops", "bytes", "share"):
        assert sum(row[key] for row in by_layer) == pytest.approx(sum(row[key] for row in by_kernel))
    assert ("unet", "down_blocks.0.norm", "norm") in [
        (row["component"], row["layer"], row["kernel"]) for row in by_layer
    ]


def test_sums_by_function() -> None:
    rows = {row["function"]: row for row in report.functions(matched(expected_calls(5, 2, True)))}
    assert (rows["full"]["calls"], rows["full"]["launches"]) == (6, 3)
    assert rows["cached"]["calls"] == 4
    # Three launches of 2 µs with 1 µs before each but the first.
    assert rows["full"]["seconds_call"] == pytest.approx(8e-6)
    assert rows["full"]["seconds_busy"] == pytest.approx(6e-6)


def test_idle_time() -> None:
    image = matched(expected_calls(2, 2, False))
    seconds = report.device_seconds(image)
    assert seconds["kernels"] == pytest.approx(11 * 2e-6)
    assert seconds["copies"] == pytest.approx(0.5e-6)
    assert seconds["idle"] == pytest.approx(11 * 1e-6)
    assert seconds["idle_in_calls"] == pytest.approx(3e-6)  # two in full, one in cached
    assert seconds["total"] == pytest.approx(seconds["kernels"] + seconds["copies"] + seconds["idle"])


def test_commands_that_overlap_are_not_idle() -> None:
    calls = [Call("unet", "cached", 0)]
    rows = np.asarray([(0, 0, 0, 100), (0, 0, 50, 80)], np.int64)
    seconds = report.device_seconds(matched(calls, Timeline(("conv_kernel",), rows)))
    assert seconds["idle"] == 0
    assert seconds["total"] == pytest.approx(100e-9)


def check_trace(trace: dict) -> None:
    """The rules of Chrome's trace event format for the kinds of events that are used."""
    assert set(trace) <= {"traceEvents", "displayTimeUnit", "otherData", "systemTraceEvents", "stackFrames"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    open_until: dict[tuple[int, int], list[float]] = {}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str)
        assert type(event["pid"]) is int
        assert type(event["tid"]) is int
        assert isinstance(event.get("args", {}), dict)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
            continue
        assert event["ph"] == "X"
        assert isinstance(event["cat"], str)
        assert event["ts"] >= 0
        assert event["dur"] >= 0
        # Events of one track nest or follow each other, or the viewer drops them.
        ends = open_until.setdefault((event["pid"], event["tid"]), [])
        while ends and ends[-1] <= event["ts"] + 1e-6:
            ends.pop()
        assert not ends or event["ts"] + event["dur"] <= ends[-1] + 1e-6
        ends.append(event["ts"] + event["dur"])


def test_trace() -> None:
    image = matched(expected_calls(2, 2, True))
    trace = chrome_trace(image, {"device": "opencl", "model": "fake"})
    check_trace(trace)
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert [event["ts"] for event in events if event["cat"] == "copies"] == [0]
    kernels = [event for event in events if event["cat"] == "kernels"]
    assert len(kernels) == len(image.launches)
    assert kernels[0]["dur"] == 2
    assert kernels[3]["args"]["layer"] == "conv_in"
    calls = [event for event in events if event["cat"] == "calls"]
    assert [event["name"] for event in calls] == functions(expected_calls(2, 2, True))
    assert trace["otherData"]["model"] == "fake"


def test_a_timeline_survives_the_wire() -> None:
    before = Timeline.of_commands([Command("a", 1, 2, 2**60), Command("b", 3, 4, 5), Command("a", 6, 7, 8)])
    after = Timeline.of_bytes(list(before.names), before.to_bytes())
    assert after.names == ("a", "b")
    np.testing.assert_array_equal(after.commands, before.commands)
    assert len(Timeline.of_commands([]).commands) == 0


@pytest.mark.parametrize(
    ("names", "body"),
    [
        (["a"], b"123"),
        ([3], bytes(32)),
        ([], bytes(32)),
        (["a"], (-1).to_bytes(8, "little", signed=True) + bytes(24)),
    ],
)
def test_a_timeline_that_is_none(names: list, body: bytes) -> None:
    with pytest.raises(RemoteError, match="sent a timeline"):
        Timeline.of_bytes(names, body)
