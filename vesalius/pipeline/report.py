"""Reports: one HTML file with everything in it, readable in light and dark, by eye and by screen reader.

    page(title, [Section("Cases", table(...)), Section("case_1", figure(overlay(image, mask), alt="..."))])

Nothing is fetched from outside, and of a patient it shows the file's own stem, nothing from the header.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from ..core.names import printable

STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--paper:#fff;--line:#d5dade;--soft:#f4f6f7;--quiet:#59636c;--bad:#b3261e}
@media (prefers-color-scheme:dark){
:root{--ink:#e6e9eb;--paper:#15191c;--line:#394148;--soft:#1f2529;--quiet:#9aa5ad;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:70rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .5rem}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem;padding-top:.75rem;border-top:1px solid var(--line)}
p{max-width:46rem;margin:.5rem 0}.quiet,figcaption,caption{color:var(--quiet)}.bad{color:var(--bad);font-weight:600}
figure{margin:1rem 0}img{max-width:100%;height:auto;display:block;border-radius:4px}figcaption{font-size:.9rem;margin-top:.4rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.92rem;margin:.75rem 0}
caption{text-align:left;padding-bottom:.4rem}
th,td{padding:.35rem .9rem .35rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td.number,th.number{text-align:right}thead th{white-space:nowrap}tbody th{font-weight:600}
"""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `body` is HTML from the functions below, already escaped."""

    heading: str
    body: str


def page(title: str, sections: Iterable[Section], lead: str = "") -> str:
    """The whole HTML document, to be written in UTF-8. `lead` is a sentence or two under the title, plain text."""
    parts = [
        f"<section aria-labelledby='s{i}'><h2 id='s{i}'>{escape(section.heading)}</h2>{section.body}</section>"
        for i, section in enumerate(sections)
    ]
    return printable(
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main><h1>{escape(title)}</h1>"
        f"{paragraph(lead) if lead else ''}\n{chr(10).join(parts)}\n</main></body></html>\n"
    )


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph; `kind` is '', 'quiet' or 'bad'."""
    return f"<p{_class(kind)}>{escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table whose first column names the row. Numbers are set right; floats get three significant digits, None a dash."""
    rows = [list(row) for row in rows]
    numeric = [any(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    kinds = [_class("number" if is_numeric else "") for is_numeric in numeric]
    head = "".join(f"<th scope='col'{kind}>{escape(name)}</th>" for name, kind in zip(columns, kinds, strict=True))
    lines = []
    for row in rows:
        first, *others = (escape(_text(value)) for value in row)
        cells = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(others, kinds[1:], strict=True))
        lines.append(f"<tr><th scope='row'>{first}</th>{cells}</tr>")
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    body = "".join(lines)
    return f"<div class='scroll' tabindex='0'><table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def figure(png: bytes, alt: str, caption: str = "") -> str:
    """A picture inside the page; `alt` says what it shows to those who cannot see it."""
    data = base64.b64encode(png).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure><img src='data:image/png;base64,{data}' alt='{escape(alt, quote=True)}'>{below}</figure>"


def _class(name: str) -> str:
    return f" class='{name}'" if name else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
