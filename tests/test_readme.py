"""The README: its code runs, its tables are what the code says, its commands exist."""

import doctest
import json
import re
import statistics
import tomllib

import pytest
from benchmark_page import PAGE, RESULTS, page
from benchmarks.residual_networks.findings import MARGIN, whole
from readme_tables import README, TABLES, section

import keras_winit as winit
from keras_winit.__main__ import main

TEXT = README.read_text(encoding="utf-8")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


# A block of code, and what it prints where that comes next.
CODE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)


def test_python_blocks_run_in_order_and_print_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, compared = {}, 0
    for block, expected in CODE.findall(TEXT):
        exec(compile(block, "README.md", "exec"), names)
        printed = capsys.readouterr().out
        if expected:
            wanted = expected.replace("…", "...")
            same = doctest.OutputChecker().check_output(wanted, printed, FLAGS)
            assert same, f"{block}\nsays it prints\n{expected}\nand prints\n{printed}"
            compared += 1
    assert compared >= 7


def test_it_is_short():
    assert len(TEXT.splitlines()) <= 250


def test_what_diagnose_told_is_what_was_recorded():
    counts = json.loads((RESULTS / "diagnosis.json").read_text("utf-8"))["counts"]["with labels"]
    for words, end in (("fail", "fails"), ("end in between", "between"), ("train", "trains")):
        (bad, warned, healthy), apart = counts["all"][end], counts["the other half"][end]
        total = bad + warned + healthy
        shares = bad / total, apart[0] / sum(apart), (bad + warned) / total
        row = " | ".join(f"{share:.1%}".replace("%", " %") for share in shares)
        assert f"| {total} {words} | {row} |" in TEXT
    fail, train = (counts["residual networks"][end] for end in ("fails", "trains"))
    told = f"errors on {fail[0]} of {sum(fail)} that fail, {train[0]} of {sum(train)} that train"
    assert told in TEXT


def test_the_page_of_benchmarks_is_generated_and_whole():
    text = PAGE.read_text("utf-8")
    assert text == page(), "run tests/readme_tables.py"
    for path in RESULTS.glob("*.png"):
        assert f"(results/{path.name})" in text, path.name
    for path in PAGE.parent.glob("*.py"):
        assert path.stem == "measure" or f"\n## {path.stem}\n" in text, path.name


def test_its_links_lead_somewhere():
    for place in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = place.partition("#")
        assert (README.parent / path).exists(), place
        assert not anchor or f"\n## {anchor}\n" in (README.parent / path).read_text("utf-8"), place


def test_a_package_index_shows_neither_its_picture_nor_links_into_the_repository():
    project = tomllib.loads((README.parent / "pyproject.toml").read_text("utf-8"))
    shown = TEXT
    for each in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(each["pattern"], each["replacement"], shown)
    assert not re.findall(r"\]\((?!https?:)[^)]*\)|<!--|^\*[^*]", shown, re.MULTILINE)
    assert blocks("python") == re.findall(r"^```python\n(.*?)^```", shown, re.DOTALL | re.MULTILINE)
    assert all(line in shown for line in TABLES["names"]().splitlines())


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_generated(name):
    assert section(TEXT, name)[2].strip() == TABLES[name]().strip(), "run tests/readme_tables.py"


def test_its_commands_of_the_package_exist():
    commands = [
        line.strip()
        for block in blocks("sh")
        for part in block.splitlines()
        for line in part.split("&&")
        if "keras_winit" in line
    ]
    assert len(commands) >= 2
    for command in commands:
        arguments = command.split()
        assert arguments[:3] == ["python", "-m", "keras_winit"]
        with pytest.raises(SystemExit) as caught:
            main([arguments[3], "--help"])
        assert caught.value.code == 0, command


def test_its_install_commands_name_extras_that_exist():
    for extra in re.findall(r'pip install "\.\[(\w+)\]"', TEXT):
        assert f"\n{extra} = [" in (README.parent / "pyproject.toml").read_text(encoding="utf-8")


def test_a_recommendation_says_of_residual_networks_what_was_measured():
    found = whole(json.loads((RESULTS / "residual.json").read_text("utf-8"))).values()
    better = sum(each.ratio("initialize") < 1 / MARGIN for each in found)
    worse = sum(each.is_worse("initialize") for each in found)
    told = re.search(
        r"of (\d+) networks .* lets (\d+) end 10 % lower .* (\d+) higher", str(winit.recommend("relu"))
    )
    assert tuple(map(int, told.groups())) == (len(found), better, worse)
    assert "residual" not in str(winit.recommend("softmax"))


def test_a_recommendation_says_of_plain_stacks_what_was_measured():
    cells = json.loads((RESULTS / "trainability_dense.json").read_text("utf-8"))["cells"].values()
    solved = [
        sum(statistics.median(scores[method]) >= 0.9 for scores in cells)
        for method in ("looks_linear", "He normal", "Keras' default")
    ]
    told = re.search(r"trains (\d+) of (\d+) .* start (\d+), Keras' (\d+)", str(winit.recommend("relu")))
    assert tuple(map(int, told.groups())) == (solved[0], len(cells), *solved[1:])


def test_which_long_plain_stacks_it_says_to_train_was_measured():
    def solved(task, depth):
        cells = json.loads((RESULTS / f"trainability_{task}.json").read_text("utf-8"))["cells"]
        found = {key: scores["looks_linear"] for key, scores in cells.items() if key.endswith(f" {depth}")}
        return len(found), {key.split()[0] for key in found if statistics.median(found[key]) >= 0.9}

    told = "activations it trains all, to 100 plain layers; at 300 GELU, SiLU, Mish and both sigmoids."
    assert f"Of twelve\n{told}" in TEXT
    count, trained = solved("dense", 100)
    assert count == len(trained) == 12
    assert solved("deep", 300) == (12, {"gelu", "silu", "mish", "sigmoid", "hard_sigmoid"})
    changes = (README.parent / "CHANGELOG.md").read_text("utf-8")
    assert "ten in convolutions of 100, and five at 300" in changes
    assert len(solved("deep_convolutions", 100)[1]) == 10
