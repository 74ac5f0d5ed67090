"""The page of all benchmarks, tests/benchmarks/README.md: what each found, its pictures, how to run it again.

`python tests/readme_tables.py` writes it.
"""

import ast
import json
import statistics
from pathlib import Path

from benchmarks.residual_networks.findings import METHODS, Findings, bar, whole
from peers import COMPARISON, PEERS

FOLDER = Path(__file__).parent / "benchmarks"
RESULTS = FOLDER / "results"
PAGE = FOLDER / "README.md"


def speed_table() -> str:
    """Medians of ratios to Keras' time, from what tests/benchmarks/sampling.py recorded."""
    paths = [RESULTS / f"{name}.json" for name in ("tensorflow", "jax", "torch")]
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in paths if path.exists()}
    order = list(found)
    lines = [f"| | {' | '.join(order)} |", "|---" * (len(order) + 1) + "|"]
    keys = dict.fromkeys(
        (row["distribution"], tuple(row["shape"]), row["peer"])
        for name in order
        for row in found[name]["speed"]
    )
    for distribution, shape, peer in keys:
        wanted = {"distribution": distribution, "shape": list(shape), "peer": peer}
        ratios = [
            next((f"{row['ratio']:.2f}" for row in found[name]["speed"] if wanted.items() <= row.items()), "")
            for name in order
        ]
        against = "" if peer == "Keras" else f", against {peer}"
        size = f"{shape[0]}²" if shape[0] == shape[1] else "×".join(map(str, shape))
        lines.append(f"| {distribution.replace('_', ' ')} {size}{against} | {' | '.join(ratios)} |")
    for distribution in dict.fromkeys(row["distribution"] for name in order for row in found[name]["memory"]):
        peaks = [
            next(
                f"{row['peak_tensors']:.1f}"
                for row in found[name]["memory"]
                if row["distribution"] == distribution
            )
            for name in order
        ]
        lines.append(
            f"| {distribution.replace('_', ' ')} 8192², peak memory in tensors | {' | '.join(peaks)} |"
        )
    places = dict.fromkeys(f"{about['machine']}, {about['date']}" for about in found.values())
    versions = {package: version for name in order for package, version in found[name]["versions"].items()}
    shown = ", ".join(f"{package} {version}" for package, version in versions.items())
    return "\n".join([*lines, "", f"{'; '.join(places)}; {shown}."])


def trainability_table() -> str:
    """How many cells each initialization solves, from what tests/benchmarks/trainability.py recorded."""
    columns = {
        "Dense, up to 40 layers": ("dense", range(41)),
        "Dense, 100 layers": ("dense", range(100, 101)),
        "Dense, 300 layers": ("deep", range(300, 301)),
        "convolutions, up to 40": ("convolutions", range(41)),
        "convolutions, 100": ("deep_convolutions", range(100, 101)),
        "breast cancer data, up to 40": ("cancer", range(41)),
    }
    counts, totals = {}, {}
    for column, (task, depths) in columns.items():
        path = RESULTS / f"trainability_{task}.json"
        if not path.exists():
            continue
        cells = json.loads(path.read_text("utf-8"))["cells"]
        cells = [scores for key, scores in cells.items() if int(key.split()[1]) in depths]
        totals[column] = len(cells)
        for method in dict.fromkeys(method for scores in cells for method in scores):
            if all(method in scores for scores in cells):
                medians = [statistics.median(scores[method]) for scores in cells]
                counts.setdefault(method, {})[column] = str(sum(value >= 0.9 for value in medians))
    lines = [
        "| cells solved | " + " | ".join(f"{name} (of {count})" for name, count in totals.items()) + " |"
    ]
    lines.append("|---" * (len(totals) + 1) + "|")
    for method, found in counts.items():
        lines.append(f"| {method} | " + " | ".join(found.get(name, "–") for name in totals) + " |")
    return "\n".join(lines)


def residual_table() -> str:
    """Best losses, and how many rates train, of what tests/benchmarks/residual.py recorded."""
    found = whole(json.loads((RESULTS / "residual.json").read_text("utf-8")))
    lines = [f"| | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    for name, each in found.items():
        cells = [_trained(each, method) if method in each.methods else "–" for method in METHODS]
        if each.recipe is not None:
            cells[-1] += f" ({each.recipe})"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {line}" for line in bar(found)), "", _rules_table()])


def _rules_table() -> str:
    """What "auto" and `calibrate` do to a residual network, why, and what that was measured to change."""
    lines = ["| rule | why | best losses without → with it |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(each)} |" for each in _RULES)])


def _trained(found: Findings, method: str) -> str:
    """The best loss with its spread, and the number of rates that train; a seed that diverges has no loss."""
    rates = f"{len(found.trained(method))} rates"
    if found.loss(method) > 10 * found.guess:
        return f"one seed diverges, {rates}"
    return f"{found.loss(method):.3g} ± {found.spread(method) / 2:.1g}, {rates}"


def published_table() -> str:
    """How many models train better and worse by 10 %, of what tests/benchmarks/published.py recorded."""
    record = json.loads((RESULTS / "published.json").read_text("utf-8"))
    lines = ["| of last losses against Keras' default | better | within 10 % | worse | geometric mean |"]
    lines.append("|---" * 5 + "|")
    for method in ("default again", "initialize", "calibrate"):
        means = [
            [statistics.mean(runs[each].values()) for each in (method, "default")] for runs in record.values()
        ]
        ratios = [ours / default for ours, default in means]
        better, worse = sum(each < 1 / 1.1 for each in ratios), sum(each > 1.1 for each in ratios)
        middle = statistics.geometric_mean(ratios)
        lines.append(f"| {method} | {better} | {len(ratios) - better - worse} | {worse} | {middle:.2f} |")
    return "\n".join(lines)


def first_losses_table() -> str:
    """First losses over that of the best constant, of what tests/benchmarks/first_losses.py recorded."""
    found = json.loads((RESULTS / "first_losses.json").read_text("utf-8"))["ratios"]
    methods = list(next(iter(found.values())))
    lines = [f"| first loss / best constant's | {' | '.join(methods)} |", "|---" * (len(methods) + 1) + "|"]
    for name, ratios in found.items():
        lines.append(f"| {name} | {' | '.join(f'{ratios[method]:.2f}' for method in methods)} |")
    return "\n".join(lines)


def diagnosis_table() -> str:
    """Verdict against outcome, with labels and without, of what tests/benchmarks/diagnosis.py recorded."""
    record = json.loads((RESULTS / "diagnosis.json").read_text("utf-8"))
    counts = record["counts"]
    lines = ["| | a run ends | networks | errors | warnings | healthy |", "|---" * 6 + "|"]
    for kind, halves in counts.items():
        for title, ends in halves.items():
            for end, (bad, warned, healthy) in ends.items():
                total = bad + warned + healthy
                shares = (f"{each} ({each / total:.1%})" for each in (bad, warned, healthy))
                lines.append(f"| {kind}, {title} | {end} | {total} | {' | '.join(shares)} |")
    lines += ["", "What the remedies do, each by itself, to the plain networks that fail:", ""]
    lines += [
        "| remedies of | applied | the finding goes | no finding is left | then trains |",
        "|---" * 5 + "|",
    ]
    for code, (count, *helped) in sorted(record["remedies_counts"].items(), key=lambda each: -each[1][0]):
        shares = (f"{each} ({each / count:.1%})" for each in helped)
        lines.append(f"| {code} | {count} | {' | '.join(shares)} |")
    return "\n".join(lines)


def cost_table() -> str:
    """What tests/benchmarks/diagnosis_cost.py recorded, in forward and backward passes of the same batch."""
    record = json.loads((RESULTS / "diagnosis_cost.json").read_text("utf-8"))
    lines = ["| passes | " + " | ".join(f"time, {name} | memory, {name}" for name in record) + " |"]
    lines.append("|---" * (1 + 2 * len(record)) + "|")
    for model in dict.fromkeys(model for found in record.values() for model in found if model != "about"):
        cells = (
            f"{found[model][figure]:.2f}" if model in found else ""
            for found in record.values()
            for figure in ("time", "memory")
        )
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines)


def peers_table() -> str:
    lines = [f"| | {' | '.join(PEERS)} |", "|---" * (len(PEERS) + 1) + "|"]
    return "\n".join([*lines, *(f"| {row} | {' | '.join(cells)} |" for row, cells in COMPARISON.items())])


# Each benchmark, in the order of the page: the table of what it found, and the pictures that it drew.
BENCHMARKS = {
    "published": (published_table, ()),
    "residual": (residual_table, ("overview", "residual")),
    "first_losses": (first_losses_table, ()),
    "trainability": (trainability_table, ("trainability_*",)),
    "mean_field": (None, ("mean_field_*",)),
    "twins": (None, ()),
    "sampling": (speed_table, ()),
    "memory": (None, ()),
    "calibration": (None, ()),
    "whole_model": (None, ()),
    "diagnosis": (diagnosis_table, ()),
    "diagnosis_cost": (cost_table, ()),
    "comparing": (None, ()),
    "tracing": (None, ()),
    "importing": (None, ()),
}

# Best losses of networks of residual.py (three seeds) or published.py (two, marked *), when the rule came.
_RULES = (
    (
        "the last kernel of each of L branches, four or more, at 1/√L; not of post-norm ones",
        "all branches together are then as large as the stream; with fewer there is little to add up",
        "ViT of six branches*: 1.04 of the default's loss with 2/√L, 0.77 so",
    ),
    (
        "at 1/L in post-norm branches",
        "the sum is normalized, so that the stream shrinks by what is added",
        "post-norm 12 2.88 → 2.52, 24 2.88 → 2.56 (`calibrate`); 24 2.90 → 2.73 (`initialize`)",
    ),
    (
        "γ of a normalization that ends one of eight branches or more at 0.3",
        "the branch starts small, at whatever size its kernels have",
        "ResNet50 1.69 → 0.67, EfficientNetB0 1.16 → 0.92, MobileNetV2 1.81 → 1.50",
    ),
    (
        "tables that start a stream of 16 pre-norm branches or more at 1",
        "at Keras' ±0.05 the first branches drown them",
        "pre-norm 12 3.10 → 2.62, 24 3.09 → 2.72",
    ),
    (
        "places beside patches at 1, where what reads the end treats all places alike",
        "nothing else tells where a patch is",
        "ViT 1.82 → 1.06",
    ),
    (
        "queries at 0.3 in post-norm branches alone",
        "attention starts nearly even; in pre-norm ones it was 1.5 times worse",
        "BERT* 0.24 → 0.19; ViT with it 1.06, without 0.64",
    ),
    (
        "an answer that reads a mean of n places √n times as large, up to Glorot's",
        "a mean of many is smaller than they are",
        "tower 24, v1 0.89 → 0.80, v2 0.82 → 0.65; ViT 2.03 → 1.82",
    ),
)

# What is older than the code that it is about.
_OLDER = {
    "trainability": "`calibrate` was recorded before answers got sizes of their own.",
}

_INTRODUCTION = """# Benchmarks

What the figures of this project come from. Each is a script that says how to run it; what it found is in
`results/`, and the tables and pictures below are made of that. Times are ratios of pairs measured in turn.
This page is generated: `python tests/readme_tables.py`.
"""

_PEERS = """What others offer: Keras 3.15, PyTorch 2.13, JAX 0.10, AutoInit of Bingham & Miikkulainen
(arXiv:2109.08958), which is for Keras 2, and the package `lsuv` for PyTorch. "By axes": it is told which
axes are inputs. "In whole models": one instance with a seed, handed to an attention layer, draws query, key
and value equal, as Keras asks of initializers; `initialize` and `calibrate` give each a seed of its own."""


def page() -> str:
    """All of the page."""
    parts = [_INTRODUCTION]
    for name, (table, pictures) in BENCHMARKS.items():
        described = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text("utf-8")))
        parts.append(f"## {name}\n\n{described}\n")
        if name in _OLDER:
            parts.append(f"{_OLDER[name]}\n")
        if table is not None:
            parts.append(table() + "\n")
        for pattern in pictures:
            for path in sorted(RESULTS.glob(f"{pattern}.png")):
                parts.append(f"![{path.stem.replace('_', ' ')}](results/{path.name})\n")
    parts.append(f"## peers\n\n{_PEERS}\n\n{peers_table()}\n")
    return "\n".join(parts)
