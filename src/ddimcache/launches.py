"""The list of launches of a component, as data: what the compiler writes and a profile is read by.

A compiled function launches the same kernels in the same order every time, so the compiler can say of each
launch what it computes and which layer of the model it came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ddimcache.manifest import Count, Size
from ddimcache.records import Limits

KernelName = Annotated[
    str, Limits(maximum=500, pattern=r"[A-Za-z_][A-Za-z0-9_]*", meaning="the name of a kernel")
]
LayerPath = Annotated[
    str, Limits(maximum=500, pattern=r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", meaning="a dotted path of layers")
]


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel.

    ``layer`` is the module of the model that it computes, as PyTorch names it inside the component
    (``down_blocks.0.resnets.1.conv1``), or the innermost module around all that it computes.
    ``macs`` are the multiply-accumulates of its products, ``flops`` all floating-point operations.
    ``bytes_read`` and ``bytes_written`` count each argument once and whole. ``shape`` and ``dtype`` are those
    of the first output.
    """

    kernel: KernelName
    layer: LayerPath
    macs: Count
    flops: Count
    bytes_read: Count
    bytes_written: Count
    shape: tuple[Size, ...]
    dtype: Annotated[str, Limits(pattern=r"[a-z]+[0-9]*", meaning="a scalar type")]


@dataclass(frozen=True)
class WorkSize:
    """How one device function is launched: work-groups, and the work-items of each, in x, y and z."""

    groups: tuple[Size, Size, Size]
    items: tuple[Size, Size, Size]


@dataclass(frozen=True)
class KernelWorkload:
    """What a kernel that can be tuned computes, and what its tuning record decided; nothing without one.

    ``workload`` is a text of ``kernels/workload.py``, ``matmul 4096x320x320 float32 int8``.
    """

    workload: Annotated[str, Limits(minimum=1, maximum=200)]
    decisions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class LaunchLists:
    """The launches of every function of a component, in the order in which they are made.

    ``work`` gives for every kernel the sizes of the device functions that it consists of, in their order in
    its source; it is empty where kernels are not bound to work-items. ``workloads`` has the kernels that can
    be tuned.
    """

    functions: dict[str, tuple[Launch, ...]]
    work: dict[str, tuple[WorkSize, ...]] = field(default_factory=dict)
    workloads: dict[str, KernelWorkload] = field(default_factory=dict)
