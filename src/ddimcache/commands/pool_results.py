"""What the verbs that share work among devices say about how it went."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddimcache.errors import DeviceError

if TYPE_CHECKING:
    from ddimcache.runtime.pool import PoolReport


def share_facts(report: PoolReport) -> dict[str, Any]:
    """Return who did how many jobs, which devices were lost, and what was given up, for ``--json``."""
    return {
        "by_device": report.by_device,
        "lost_devices": report.lost,
        "failed": [{"problem": each.problem, "devices": each.devices} for each in report.failed],
    }


def raise_failures(report: PoolReport, what: str, log: Path) -> None:
    """Raise :class:`DeviceError` where jobs were given up; ``what`` says what became of them."""
    if not report.failed:
        return
    first = report.failed[0]
    raise DeviceError(
        f"{len(report.failed)} {what}, the first on {' and '.join(first.devices)}: {first.problem}",
        where=str(log),
        remedy="run it again to try once more",
    )
