"""The README: its code runs, its tables are what the code says, its commands exist."""

import re

import pytest
from readme_tables import README, TABLES, section

from keras_winit.__main__ import main

TEXT = README.read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "winit>he_uniform" in printed
    assert "HeUniform()" in printed


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
