"""A progress bar for what may take longer than two seconds."""

import contextlib
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(description: str, total: int, *, show: bool = True) -> Iterator[Callable[[], None]]:
    """A bar on standard error, silent where that is no terminal; call what it gives at each step."""
    if not show or sys.stderr is None or not sys.stderr.isatty():
        yield lambda: None
        return
    # Slow to import, and seldom needed.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda: bar.advance(task)
