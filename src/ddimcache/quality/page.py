"""Sets of pictures side by side with their figures, as one page that fetches nothing."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import Any

from ddimcache.quality.pictures import Commission, PictureSet
from ddimcache.quality.report import heading, table_row

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff; }
table { border-collapse: collapse; } th, td { padding: .2rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 1px solid #999; }
.pictures { overflow-x: auto; } .pictures td, .pictures th { text-align: center; vertical-align: bottom; }
.pictures th:first-child { max-width: 14rem; text-align: left; font-weight: normal; }
img { display: block; width: 128px; image-rendering: auto; }
"""


def page(
    title: str,
    facts: Sequence[str],
    sets: Sequence[PictureSet],
    rows: Sequence[dict[str, Any]],
    commission: Commission,
    shown: int,
) -> str:
    """Return the HTML: the table, and the pictures of the first ``shown`` prompts, a column a setting."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head><body>',
        f"<h1>{html.escape(title)}</h1>",
        *(f"<p>{html.escape(fact)}</p>" for fact in facts),
        "<table><thead><tr>",
        *(f"<th>{html.escape(name)}</th>" for name in heading(rows)),
        "</tr></thead><tbody>",
    ]
    for pictures, row in zip(sets, rows, strict=True):
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in table_row(pictures.setting, row))
        parts.append(f"<tr>{cells}</tr>")
    parts += ["</tbody></table>", '<h2>Pictures</h2><div class="pictures"><table><thead><tr><th></th>']
    parts += [f"<th>{html.escape(pictures.setting.title)}</th>" for pictures in sets]
    parts.append("</tr></thead><tbody>")
    for index, prompt in enumerate(commission.prompts[:shown]):
        seed = commission.first_seed + index
        parts.append(f"<tr><th>{html.escape(prompt)}, seed {seed}</th>")
        for pictures in sets:
            content = base64.b64encode(pictures.files[index].read_bytes()).decode()
            parts.append(f'<td><img alt="" src="data:image/png;base64,{content}"></td>')
        parts.append("</tr>")
    parts.append("</tbody></table></div></body></html>")
    return "\n".join(parts) + "\n"
