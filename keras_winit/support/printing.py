"""Results in one style: as text, as HTML for a notebook, as plain data; and progress bars."""

import contextlib
import dataclasses
import html
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple


@contextlib.contextmanager
def progress(description: str, total: int, *, show: bool = True) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if a terminal; call what it gives at each step."""
    if not show or sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)


_MOST_ROWS, _ENDS = 60, 20  # of more, so many at either end are shown


class Table(NamedTuple):
    """A table of text; its legend explains its headings."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    legend: str = ""


class Printed:
    """A dataclass that prints as a line that sums it up, and tables."""

    _whole: ClassVar[bool] = True  # text shows every row, else a long table is cut in the middle

    def _line(self) -> str:
        raise NotImplementedError

    def _tables(self) -> list[Table]:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers, ready for JSON: what is not finite is None."""
        data: dict[str, Any] = _plain(self)
        return data

    def __repr__(self) -> str:
        """One line, as a session shows it."""
        return f"<{type(self).__name__}: {self._line().splitlines()[0]}>"

    def __str__(self) -> str:
        from keras_winit.support.terminal import table_text  # noqa: PLC0415 - slow to import

        parts = [self._line()]
        for table in self._tables():
            rows = table.rows if self._whole else _shortened(table.rows)
            head = "\n".join(filter(None, (table.title, table.legend)))
            parts.append(f"{head}\n{table_text(table.headings, rows)}")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        parts = [f"<p>{html.escape(self._line()).replace(chr(10), '<br>')}</p>"]
        for table in self._tables():
            head = _html_row("th", table.headings)
            body = "".join(_html_row("td", row) for row in _shortened(table.rows))
            lines = filter(None, (f"<b>{html.escape(table.title)}</b>", html.escape(table.legend)))
            parts.append("<br>".join(lines))
            parts.append(f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")
        return "".join(parts)


def _html_row(kind: str, cells: Sequence[str]) -> str:
    inner = "".join(f"<{kind} style='text-align:left'>{html.escape(cell)}</{kind}>" for cell in cells)
    return f"<tr>{inner}</tr>"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
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


def counted(count: int, what: str) -> str:
    """As "1 step" or "2 steps"."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def number(value: float | None) -> str:
    """A figure with three digits, or a dash."""
    return "–" if value is None else f"{value:.3g}"


def share(value: float | None) -> str:
    """A share in percent, or a dash."""
    if value is None:
        return "–"
    return f"{value:.0%}" if value >= 0.01 or value == 0 else f"{value:.1e}"
