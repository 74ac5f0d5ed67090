"""Tables in one style: plain enough for a pipe, readable without colour."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 160  # enough to fold no table


def console() -> Console:
    """A console on standard output."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_PIPE_WIDTH)


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> Table:
    """A table of text."""
    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    for heading in headings:
        result.add_column(heading, overflow="fold")
    for row in rows:
        result.add_row(*(_cell(cell) for cell in row))
    return result


def table_text(headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table as plain text."""
    screen = Console(width=_PIPE_WIDTH, color_system=None, force_terminal=False, force_jupyter=False)
    with screen.capture() as captured:
        screen.print(table(headings, rows))
    return "\n".join(line.rstrip() for line in captured.get().strip("\n").splitlines())


def _cell(cell: Any) -> Text:
    """A cell as it is: no markup by brackets, no emoji by colons, nothing that moves a terminal."""
    return Text("".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(cell)))
