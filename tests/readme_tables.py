"""The README's generated tables, and the page of benchmarks: `python tests/readme_tables.py` writes both."""

import re
from itertools import zip_longest
from pathlib import Path

from benchmark_page import PAGE, page

import keras_winit as winit
from keras_winit.listing import listed

README = Path(__file__).parents[1] / "README.md"


def names_table() -> str:
    """Every public name with its claim, two in a row."""
    lines = []
    for group, pairs in listed(winit.__all__, vars(winit)).items():
        lines += [f"| **{group}** | | | |", *([] if lines else ["|---|---|---|---|"])]
        cells = [f"`{name}` | {claim.replace('|', '∣')}" for name, claim in pairs]
        lines += [f"| {' | '.join(row)} |" for row in zip_longest(cells[::2], cells[1::2], fillvalue=" | ")]
    return "\n".join(lines)


TABLES = {"names": names_table}


def section(text: str, name: str) -> re.Match:
    found = re.search(rf"(<!-- {name}: [^\n]*-->\n)(.*?)(\n?<!-- /{name} -->)", text, re.DOTALL)
    assert found, f"README.md has no section {name!r}"
    return found


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        found = section(text, name)
        text = text[: found.start()] + found[1] + make() + "\n" + found[3].lstrip("\n") + text[found.end() :]
    README.write_text(text, encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
