"""The README's generated tables, and the page of benchmarks: `python tests/readme_tables.py` writes both."""

import re
from pathlib import Path

from benchmark_page import PAGE, page
from peers import COMPARISON, PEERS

import keras_winit as winit
from keras_winit.schemes import scheme_class

README = Path(__file__).parents[1] / "README.md"


def schemes_table() -> str:
    lines = ["| name (aliases) | draws | source |", "|---|---|---|"]
    for name in winit.names():
        scheme = scheme_class(name)
        aliases = f" ({', '.join(f'`{alias}`' for alias in scheme.aliases)})" if scheme.aliases else ""
        lines.append(f"| `{name}`{aliases} | {scheme.formula.replace('|', '∣')} | {scheme.source} |")
    return "\n".join(lines)


def peers_table() -> str:
    lines = [f"| | {' | '.join(PEERS)} |", "|---" * (len(PEERS) + 1) + "|"]
    return "\n".join([*lines, *(f"| {row} | {' | '.join(cells)} |" for row, cells in COMPARISON.items())])


TABLES = {
    "schemes": schemes_table,
    "peers": peers_table,
}


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
