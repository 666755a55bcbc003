"""Tiers of tests: which of them this machine can run, and a line for each that it cannot.

A test carries the mark of the tier it needs; without one it belongs to ``host``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aarch64_root
import pytest

from ddimcache.adreno import lab as adreno_lab
from tests.kit import browser
from tests.kit.shared_bundles import keep_bundles_for_the_run

# Tests compile many kernels just once: to keep them would fill the cache and take time. The tests of the
# cache itself turn it on.
os.environ.setdefault("DDIMCACHE_PROGRAM_CACHE", "0")


def _opencl_missing() -> str | None:
    from ddimcache.runtime import devices

    return devices.describe_missing()


def _phone_missing() -> str | None:
    return None if os.environ.get("DDIMCACHE_PHONE") else "DDIMCACHE_PHONE names no phone"


def _peft_missing() -> str | None:
    return None if importlib.util.find_spec("peft") else "package peft is missing, which diffusers merges by"


# tier -> why this machine cannot run it, or None when it can; asked once, and only when a test needs it
TIERS: dict[str, Callable[[], str | None]] = {
    "host": lambda: None,
    "opencl": _opencl_missing,
    "lab": adreno_lab.missing,
    "aarch64": aarch64_root.missing,
    "phone": _phone_missing,
    "browser": browser.missing,
    "peft": _peft_missing,
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--refresh-golden",
        action="store_true",
        help="write the kernels that tests/schedules/test_golden_kernels.py compares with",
    )


def pytest_configure(config: pytest.Config) -> None:
    keep_bundles_for_the_run(config)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reasons: dict[str, str | None] = {}
    full = "full" in (config.option.markexpr or "")
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in TIERS):
            item.add_marker(pytest.mark.host)
        obstacles = []
        if item.get_closest_marker("full") and not full:
            obstacles.append(("full", "models of full size take long: `make full`"))
        for tier in TIERS:
            if not item.get_closest_marker(tier):
                continue
            if tier not in reasons:
                reasons[tier] = TIERS[tier]()
            if reason := reasons[tier]:
                obstacles.append((tier, reason))
        if obstacles:
            name, reason = obstacles[0]
            item.add_marker(pytest.mark.skip(reason=f"tier {name}: {reason.splitlines()[0]}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts the reports and not the collected items: these are elsewhere when several processes run them."""
    ran: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if not isinstance(report, pytest.TestReport):
                continue
            if report.when == "call":
                ran.update(tier for tier in TIERS if tier in report.keywords)
            elif report.skipped and isinstance(report.longrepr, tuple):
                found = re.match(r"Skipped: (tier \w+: .*)", report.longrepr[2])
                if found:
                    left_out[found[1]] += 1
    if not ran and not left_out:
        return
    terminalreporter.section("tiers")
    for tier, count in ran.items():
        terminalreporter.write_line(f"ran       {tier}: {count} tests")
    for reason, count in left_out.items():
        terminalreporter.write_line(f"left out  {reason} ({count} tests)")


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a few kilobytes to read; see ``fakes/fake_bundle.py``."""
    from tests.fakes.fake_bundle import build_fake_bundle

    folder = tmp_path_factory.mktemp("fake")
    return build_fake_bundle(folder / "bundle", folder)


@pytest.fixture
def own_bundle(fake_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it to break."""
    return Path(shutil.copytree(fake_bundle, tmp_path / "bundle"))
