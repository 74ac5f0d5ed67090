"""Putting things back, whatever comes in the midst of it."""

from collections.abc import Callable


def surely(put_back: Callable[[], None]) -> None:
    """Put back; where an interrupt comes in the midst of it, from the start, and then let it go on.

    Args:
        put_back: what can be done twice.

    Raises:
        KeyboardInterrupt: the one that came, once all is put back.
    """
    try:
        put_back()
    except KeyboardInterrupt:
        put_back()
        raise
