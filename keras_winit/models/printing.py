"""Results in words, in one style: as text, as HTML for a notebook, and as plain data for machines."""

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

_MOST_ROWS, _ENDS = 60, 20  # of more rows, so many at either end are shown; `to_dict()` has them all


class Table(NamedTuple):
    """A titled table of text."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def as_text(line: str, tables: Sequence[Table], *, whole: bool = False) -> str:
    """What sums it up, and the tables; long ones are cut in the middle unless asked for whole."""
    from keras_winit.terminal import table_text  # noqa: PLC0415 - rich is slow to import

    parts = [
        f"{table.title}\n{table_text(table.headings, table.rows if whole else _shortened(table.rows))}"
        for table in tables
    ]
    return "\n\n".join([line, *parts])


def as_html(line: str, tables: Sequence[Table]) -> str:
    """The same for a notebook."""
    parts = [f"<p>{html.escape(line).replace(chr(10), '<br>')}</p>"]
    for table in tables:
        head = _html_row("th", table.headings)
        body = "".join(_html_row("td", row) for row in _shortened(table.rows))
        parts.append(f"<b>{html.escape(table.title)}</b>")
        parts.append(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")
    return "".join(parts)


def _html_row(kind: str, cells: Sequence[str]) -> str:
    inner = "".join(f"<{kind} style='text-align:left'>{html.escape(cell)}</{kind}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def plain(result: Any) -> dict[str, Any]:
    """A dataclass as dicts, lists, strings and numbers; numbers that are not finite are None."""
    data: dict[str, Any] = _plain(dataclasses.asdict(result))
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _shortened(rows: Sequence[Sequence[str]]) -> Sequence[Sequence[str]]:
    if len(rows) <= _MOST_ROWS:
        return rows
    between = (f"… {len(rows) - 2 * _ENDS} more …", *("" for _ in rows[0][1:]))
    return [*rows[:_ENDS], between, *rows[-_ENDS:]]


def number(value: float | None) -> str:
    """A figure with three digits, or a dash."""
    return "–" if value is None else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share in percent, or a dash."""
    if value is None:
        return "–"
    return f"{value:.0%}" if value >= 0.01 or value == 0 else f"{value:.1e}"
