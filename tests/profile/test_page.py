"""The page: nothing fetched, nothing out of a bundle run, and it does what it says in a browser."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ddimcache.profile.page import page
from tests.kit.browser import Page, open_browser
from tests.profile.images import facts

EVIL = """</script><script>window.broken=1</script><img src=x onerror="window.broken=1">'"`{{ data }}&lt;"""


class Parts(HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))


def test_names_are_no_markup() -> None:
    kinds = [tag for tag, _ in Parts(page(facts())).elements]
    assert [tag for tag, _ in Parts(page(facts(EVIL, EVIL))).elements] == kinds


def test_nothing_is_fetched() -> None:
    text = page(facts())
    for tag, attributes in Parts(text).elements:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert not {"src", "href", "style", "onclick"} & set(attributes), tag
    assert re.search(r"https?://(?!www\.w3\.org/)", text) is None
    [policy] = [a["content"] for tag, a in Parts(text).elements if a.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_browser() as opened:
        yield opened


def show(browser: Page, folder: Path, **options: object) -> None:
    path = folder / "profile.html"
    path.write_text(page(facts(**options)))  # type: ignore[arg-type]
    browser.problems.clear()
    browser.requests.clear()
    browser.open(path)
    assert browser.run("document.documentElement.dataset.ready") == "yes"


def column(browser: Page, number: int) -> list[str]:
    return browser.run(
        f"[...document.querySelectorAll('#kernels tbody tr')].map(row => row.cells[{number}].textContent)"
    )


@pytest.mark.browser
def test_in_a_browser(browser: Page, tmp_path: Path) -> None:
    show(browser, tmp_path, count=12)
    names = sorted(f"conv{number}" for number in range(12))
    assert sorted(column(browser, 0)) == names
    assert browser.run("document.querySelectorAll('#roofline circle').length") == 12
    assert browser.run("document.querySelector('#what').textContent").endswith("“a </script> circle”")

    browser.click("#kernels th:nth-child(1) button")
    assert column(browser, 0) == browser.run(f"{names}.sort((a, b) => a.localeCompare(b))")
    assert browser.run("document.querySelector('#kernels th').getAttribute('aria-sort')") == "ascending"
    browser.click("#kernels th:nth-child(1) button")
    assert column(browser, 0)[0] == "conv9"
    browser.click("#kernels th:nth-child(7) button")  # GFLOP/s, largest first
    assert column(browser, 0)[0] == "conv11"

    browser.run(
        "(f => { f.value = '.11'; f.dispatchEvent(new Event('input')); })(document.querySelector('#filter'))"
    )
    assert browser.run("document.querySelectorAll('#kernels tbody tr:not([hidden])').length") == 1
    assert browser.run("document.querySelector('#shown').textContent").startswith("1 of 12 kernels")

    before = browser.run("document.querySelectorAll('#flame rect').length")
    assert before > 12
    browser.click("#flame rect:nth-of-type(2)")
    assert "› unet:" in browser.run("document.querySelector('#path').textContent")
    browser.click("#flame rect")
    assert browser.run("document.querySelectorAll('#flame rect').length") == before

    browser.move_to("#roofline circle")
    assert "of the roofline" in browser.run("document.querySelector('#hint:not([hidden])').textContent")
    assert browser.problems == []
    assert [url.partition(":")[0] for url in browser.requests] == ["file"]


@pytest.mark.browser
def test_names_of_a_hostile_bundle(browser: Page, tmp_path: Path) -> None:
    show(browser, tmp_path, kernel=EVIL, layer=EVIL, count=2)
    assert browser.run("window.broken === undefined")
    assert set(column(browser, 0)) == {f"{EVIL}{number}" for number in range(2)}
    assert browser.run("document.querySelectorAll('img').length") == 0
    assert browser.problems == []


@pytest.mark.browser
def test_the_policy_lets_nothing_out(browser: Page, tmp_path: Path) -> None:
    show(browser, tmp_path)
    browser.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
    browser.run("new Promise(done => setTimeout(done, 50))")
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'window.broken=1'}))"
    )
    assert browser.run("window.broken === undefined")
    assert any("Content Security Policy" in problem for problem in browser.problems)


@pytest.mark.browser
def test_light_and_dark(browser: Page, tmp_path: Path) -> None:
    show(browser, tmp_path, count=5)
    corners = {}
    for scheme in ("light", "dark"):
        browser.call(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        picture = Image.open(io.BytesIO(browser.screenshot(1000, 700))).convert("L")
        corners[scheme] = picture.getpixel((2, 2))
        low, high = picture.getextrema()
        assert high - low > 150, "nothing is drawn"
    assert corners["light"] > 200 > 60 > corners["dark"]


@pytest.mark.browser
def test_a_thousand_kernels(browser: Page, tmp_path: Path) -> None:
    show(browser, tmp_path, count=1000)
    assert len(column(browser, 0)) == 1000
    browser.click("#kernels th:nth-child(1) button")
    assert column(browser, 0)[0] == "conv0"
    assert browser.problems == []
