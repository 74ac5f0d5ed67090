"""Every public name with its one-line claim, for `help(keras_winit)` and the README."""

import inspect
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from keras_winit.schemes import Scheme

_WIDTH = 100


def listed(names: Iterable[str], namespace: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Pairs of a name and its claim, the first paragraph of its docstring, by kind and sorted.

    Example:

    >>> listed(["Scheme"], {"Scheme": Scheme})["Schemes"][0][0]
    'Scheme'
    """
    groups: dict[str, list[tuple[str, str]]] = {"Functions": [], "Schemes": [], "What functions return": []}
    for name in sorted(names, key=str.lower):
        item = namespace[name]
        group = "Functions"
        if inspect.isclass(item):
            group = "Schemes" if issubclass(item, Scheme) else "What functions return"
        paragraph = (item.__doc__ or "").strip().split("\n\n")[0]  # python -OO has none
        groups[group].append((name, " ".join(paragraph.split())))
    return groups


def described(text: str, names: Iterable[str], namespace: Mapping[str, Any]) -> str:
    """A module's docstring with the list of its public names."""
    lines = [text.rstrip()]
    for group, pairs in listed(names, namespace).items():
        lines.append(f"\n{group}:\n")
        for name, claim in pairs:
            lines += textwrap.wrap(
                f"{name}: {claim}", _WIDTH, initial_indent="  ", subsequent_indent="      "
            )
    return "\n".join([*lines, ""])
