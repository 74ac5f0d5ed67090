"""The README's generated tables, and the page of benchmarks: `python tests/readme_tables.py` writes both."""

import re
from pathlib import Path

from benchmark_page import PAGE, page

import keras_winit as winit
from keras_winit.listing import listed

README = Path(__file__).parents[1] / "README.md"


def names_table() -> str:
    """Every public name with its claim."""
    lines = []
    for group, pairs in listed(winit.__all__, vars(winit)).items():
        lines += ["", f"| {group} | |", "|---|---|"]
        lines += [f"| `{name}` | {claim.replace('|', '∣')} |" for name, claim in pairs]
    return "\n".join(lines[1:])


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
