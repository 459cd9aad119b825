"""Parts of a report, and how they look as Markdown and as one HTML file."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.markdown import as_text, table


@dataclass(frozen=True, kw_only=True, slots=True)
class Heading:
    """A title of a part; the first is the whole report's."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Paragraph:
    """Words."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """Points, one below the other."""

    points: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A head and rows of as many cells."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture as PNG, the name of its file, and what it shows."""

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Text as it is."""

    text: str


Block = Heading | Paragraph | Listing | Table | Picture | Code


def to_markdown(blocks: Sequence[Block]) -> str:
    """A report as Markdown; pictures are files beside it."""
    parts = []
    for number, block in enumerate(blocks):
        match block:
            case Heading(text=text):
                parts.append(f"{'#' if number == 0 else '##'} {as_text(text)}")
            case Paragraph(text=text):
                parts.append(as_text(text))
            case Listing(points=points):
                parts.append("\n".join(f"- {as_text(point)}" for point in points))
            case Table(head=head, rows=rows):
                first, *others = ([as_text(cell) for cell in cells] for cells in (head, *rows))
                parts.append(table(first, others, others="words"))
            case Picture(name=name, caption=caption):
                parts.append(f"![{as_text(caption)}]({name})")
            case Code(text=text):
                parts.append(f"```yaml\n{text.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


# Greys that let through what is below them, so that they suit a light and a dark page.
_STYLE = """:root{color-scheme:light dark}body{background:#fff;color:#1f2328}
@media(prefers-color-scheme:dark){body{background:#16181d;color:#e6e8eb}}
body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;overflow-wrap:break-word}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}td{white-space:nowrap}
th,td{border-bottom:1px solid #8886;padding:.25rem .6rem;text-align:left}
figure{margin:1rem 0}img{max-width:100%}pre{background:#8882;padding:1rem;overflow:auto;font-size:.85rem}"""


def to_html(blocks: Sequence[Block]) -> str:
    """A report as one HTML file that needs no other."""
    parts = []
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Study")
    for number, block in enumerate(blocks):
        match block:
            case Heading(text=text):
                parts.append(f"<h{1 if number == 0 else 2}>{html.escape(text)}</h{1 if number == 0 else 2}>")
            case Paragraph(text=text):
                parts.append(f"<p>{html.escape(text)}</p>")
            case Listing(points=points):
                parts.append(f"<ul>{''.join(f'<li>{html.escape(point)}</li>' for point in points)}</ul>")
            case Table(head=head, rows=rows):
                lines = [_cells(head, "th"), *(_cells(row, "td") for row in rows)]
                table = f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
                parts.append(f'<div class="scroll" tabindex="0">{table}</div>')
            case Picture(png=png, caption=caption):
                text = html.escape(caption)
                source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
                parts.append(f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>')
            case Code(text=text):
                parts.append(f"<pre>{html.escape(text)}</pre>")
    about = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html><html lang="en"><head>{about}</head><body>{"".join(parts)}</body></html>\n'


def _cells(cells: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
