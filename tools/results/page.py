"""The frame of the report: one HTML page with its style and script inside, no external request."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)

HEADING = re.compile(r'<h2 id="(.+?)">(.+?)</h2>')
NUMBER = ' class="number"'  # of a cell, and of the head of a column with such cells
STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --paper: #fff;
  --line: #d8dee6; --head: #eef2f6; --accent: #0a5ea8; }
@media (prefers-color-scheme: dark) { :root:not([data-theme=light]) { --ink: #e4e8ee;
  --soft: #9aa6b5; --paper: #14181e; --line: #333c47; --head: #1e252e; --accent: #7cc0ff; } }
:root[data-theme=dark] { color-scheme: dark; --ink: #e4e8ee; --soft: #9aa6b5; --paper: #14181e;
  --line: #333c47; --head: #1e252e; --accent: #7cc0ff; }
:root[data-theme=light] { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; color: var(--ink);
  background: var(--paper); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.bar { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .6rem;
  align-items: center; padding: .6rem 0; background: var(--paper);
  border-bottom: 1px solid var(--line); }
.bar input { flex: 1 1 12rem; min-width: 0; padding: .4rem .6rem; font: inherit;
  color: inherit; background: var(--paper); border: 1px solid var(--line); border-radius: 6px; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
  text-align: inherit; }
nav { display: flex; gap: .8rem; } a { color: var(--accent); } h2 { scroll-margin-top: 7rem; }
.bar button { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .8rem; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .87rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { background: var(--head); font-weight: 600; } tr:last-child td { border-bottom: 0; }
.number { text-align: right; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
.note { color: var(--soft); font-size: .85rem; margin: .3rem 0; overflow-wrap: anywhere; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0;
  padding: .5rem .8rem; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
figure { margin: .6rem 0; } figcaption { color: var(--soft); font-size: .85rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px; }
.side { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
.mistakes { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
.mistakes figure { margin: 0; overflow-wrap: anywhere; }
.mistakes img { width: 100%; aspect-ratio: 1; object-fit: contain; }
.gone { display: grid; place-items: center; aspect-ratio: 1; padding: .4rem; font-size: .8rem;
  color: var(--soft); border: 1px dashed var(--line); border-radius: 4px; text-align: center; }
[hidden] { display: none; }
"""

SCRIPT = """
"use strict";
function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/[*,]/g, "").replace("\\u2212", "-"));
  return Number.isNaN(number) || !/^[-+*\\u2212.\\d]/.test(text) ? text.toLowerCase() : number;
}
function compare(a, b) {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
}
function sortBy(head) {
  const table = head.closest("table"), body = table.tBodies[0];
  const isUp = head.getAttribute("aria-sort") !== "ascending", sign = isUp ? 1 : -1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
  const rows = Array.from(body.rows, row => [valueOf(row, head.cellIndex), row]);
  rows.sort((one, two) => sign * compare(one[0], two[0]));
  body.append(...rows.map(pair => pair[1]));
}
function filterBy(text) {
  const words = text.toLowerCase().split(/\\s+/).filter(Boolean);
  const fits = content => words.every(word => content.toLowerCase().includes(word));
  for (const row of document.querySelectorAll("table.filtered tbody tr")) {
    row.hidden = !fits(row.textContent);
  }
  for (const part of document.querySelectorAll("details.filtered")) {
    part.hidden = !fits(part.querySelector("summary").textContent);
  }
  const rows = Array.from(document.querySelectorAll("#runs tbody tr"));
  const count = rows.filter(row => !row.hidden).length;
  document.getElementById("count").textContent = `${count} of ${rows.length} runs`;
}
function toggleTheme() {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
document.getElementById("filter").addEventListener("input", event => filterBy(event.target.value));
document.getElementById("theme").addEventListener("click", toggleTheme);
filterBy("");
"""


def page(title: str, sections: Iterable[str]) -> str:
    """A whole page; sections are HTML, the title is text."""
    body = "".join(sections)
    links = "".join(f'<a href="#{n}">{t}</a>\n' for n, t in re.findall(HEADING, body))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
<div class="bar">
<input id="filter" type="search" placeholder="Filter: method, dataset, seed ..."
 aria-label="Filter rows and runs">
<span id="count" role="status"></span>
<nav>{links}</nav>
<button id="theme" type="button">Light / dark</button>
</div>
{body}
<script>{SCRIPT}</script>
</body>
</html>
"""


def section(title: str, *parts: str) -> str:
    """A headed section of HTML parts."""
    name = title.lower().replace(" ", "-")
    return f'<section>\n<h2 id="{name}">{escape(title)}</h2>\n{"".join(parts)}</section>\n'


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, name: str = "", filtered: bool = True
) -> str:
    """A table that sorts by a click on a header; cells are text, and bold between two `**`."""
    rows = list(rows)
    numeric = [any(map(_is_number, column)) for column in zip(*rows)] or [False] * len(headers)
    heads = "".join(
        f'<th scope="col"{NUMBER * is_number}><button type="button">{escape(head)}</button></th>'
        for head, is_number in zip(headers, numeric)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows)
    marks = (f' id="{escape(name)}"' if name else "") + ' class="filtered"' * filtered
    return (
        f'<div class="wide"><table{marks}><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>\n"
    )


def _is_number(text: str) -> bool:
    return text.lstrip("*+−-")[:1].isdigit()


def _cell(text: str) -> str:
    kind = NUMBER * _is_number(text)
    if len(text) > 4 and text.startswith("**") and text.endswith("**"):
        return f"<td{kind}><b>{escape(text[2:-2])}</b></td>"
    return f"<td{kind}>{escape(text)}</td>"


def notes(lines: Iterable[str]) -> str:
    """Paragraphs of small text."""
    return "".join(f'<p class="note">{escape(line)}</p>\n' for line in lines)


def picture(content: bytes, kind: str, caption: str) -> str:
    """An embedded image: `kind` is its MIME type."""
    source = f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
    shown = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure><img src="{source}" alt="{escape(caption)}">{shown}</figure>\n'


def missing_picture(reason: str, caption: str) -> str:
    """In the place of an image that is not there."""
    return (
        f'<figure><div class="gone">{escape(reason)}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def folded(summary: str, *parts: str) -> str:
    """A part that opens on a click."""
    shown = f"<summary>{escape(summary)}</summary>"
    return f'<details class="filtered">{shown}\n{"".join(parts)}</details>\n'
