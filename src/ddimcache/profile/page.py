"""A profile as one page that needs nothing else and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from typing import Any


def page(facts: dict[str, Any]) -> str:
    """Return the HTML of what ``profile --json`` prints.

    Its policy lets the browser run the one script in it and load nothing; names out of the bundle are data
    to that script, which never makes markup of them.
    """
    parts = {name: _part(name) for name in ("page.html", "page.css", "page.js")}
    # Inside a script element only "</script" and "<!--" mean anything; no JSON needs a bare "<".
    data = json.dumps(facts, ensure_ascii=True, allow_nan=False).replace("<", "\\u003c")
    pieces = {
        "title": html.escape(f"{facts['model']} on {facts['device']}"),
        "style_sum": _sum(parts["page.css"]),
        "script_sum": _sum(parts["page.js"]),
        "style": parts["page.css"],
        "script": parts["page.js"],
        "data": data,
    }
    text = parts["page.html"]
    before, *rest = text.split("{{")
    filled = [before]
    for piece in rest:
        name, _, after = piece.partition("}}")
        filled += [pieces[name.strip()], after]
    return "".join(filled)


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _sum(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
