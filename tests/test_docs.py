"""Every Python block of README and docs runs and prints what the page says; commands parse; linked files exist."""

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tracer_agents import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PYTHON = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<printed>.*?)```)?", re.DOTALL)
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)
TOGETHER = "run them in order"
EXTRAS = {"open_spiel": "pyspiel"}


def name_of(page):
    return str(page.relative_to(ROOT))


def commands_of(page):
    text = "".join(CONSOLE.findall(page.read_text(encoding="utf-8")))
    return [line.removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines() if line.startswith("$ ")]


def python_pages():
    return [page for page in PAGES if PYTHON.search(page.read_text(encoding="utf-8"))]


def run_blocks(page, read):
    """Run the blocks of a page from top to bottom; a text block right behind one is its output.

    They share their names only where the page says so. A block of an extra that is missing is left out.
    """
    text = page.read_text(encoding="utf-8")
    shared = {"__name__": "__main__"}
    for block in PYTHON.finditer(text):
        missing = [extra for word, extra in EXTRAS.items() if word in block["code"] and find_spec(extra) is None]
        if missing:
            continue
        line = text.count("\n", 0, block.start("code"))  # so that a traceback names the page's own lines
        exec(
            compile("\n" * line + block["code"], str(page), "exec"),
            shared if TOGETHER in text else {"__name__": "__main__"},
        )
        printed = read()
        assert printed, f"the block in line {line} of {page.name} prints nothing"
        assert block["printed"] in (None, printed), f"{page.name}, line {line}, prints:\n{printed}"


@pytest.mark.parametrize("page", python_pages(), ids=name_of)
def test_python_blocks_run_and_print_what_the_page_says(page, capsys):
    run_blocks(page, lambda: capsys.readouterr().out)


@pytest.mark.parametrize(
    ("start", "error", "message"),
    [(TOGETHER, AssertionError, r"line 7, prints:\s+2"), ("Blocks.", NameError, "'x' is not defined")],
)
def test_a_page_that_says_something_else_fails(start, error, message, tmp_path, capsys):
    page = tmp_path / "page.md"
    blocks = "```python\nx = 1\nprint(x)\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n3\n```\n"
    page.write_text(f"{start}\n{blocks}", encoding="utf-8")
    with pytest.raises(error, match=message):
        run_blocks(page, lambda: capsys.readouterr().out)


@pytest.mark.parametrize(
    ("page", "command"), [pytest.param(p, c, id=f"{name_of(p)}: {c[:50]}") for p in PAGES for c in commands_of(p)]
)
def test_commands_parse(page, command, monkeypatch, capsys):
    check_command(command, monkeypatch)


@pytest.mark.parametrize(
    "command",
    [
        "tracer record --outt x.npz",
        "tracer nothing",
        "python examples/learners/nothing.py",
        "python examples/learners/sb3_ppo.py --tsak x",
        "python -m scripts.nothing",
        "make nothing",
        "pip install 'tracer-env[nothing]'",
        "tracer 'record",
        "rm x",
    ],
)
def test_a_wrong_command_fails(command, monkeypatch, capsys):
    with pytest.raises((AssertionError, SystemExit)):
        check_command(command, monkeypatch)


def check_command(command, monkeypatch):
    assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0, command
    program, *words = shlex.split(command, comments=True)
    if program == "tracer":
        parse_only(monkeypatch)
        with pytest.raises(_Parsed):
            cli.main(words)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert words[0] in targets, command
    elif program.endswith("python"):
        file = words[1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
        assert (ROOT / file).is_file(), command
        known = set(re.findall(r'"(--[\w-]+)"', (ROOT / file).read_text(encoding="utf-8")))
        if file.startswith("examples/learners"):
            known |= {"--task", "--seed", "--steps"}
        if file != "examples/train_tracer.py":  # its options are tracer train's
            assert {w.split("=")[0] for w in words if w.startswith("--")} <= known, command
    elif program == "pip":
        extras = re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
        named = re.fullmatch(r"tracer-env(?:\[([\w,]+)\])?", words[1])
        assert words[0] == "install", command
        assert named, command
        assert set(filter(None, (named[1] or "").split(","))) <= set(extras), command
    else:
        raise AssertionError(f"nobody checks {program!r}: {command}")


class _Parsed(Exception):
    """The command line has been understood; nothing more is run."""


def parse_only(monkeypatch):
    def parse_args(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise _Parsed

    parse = cli.Parser.parse_args
    monkeypatch.setattr(cli.Parser, "parse_args", parse_args)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_exist(page):
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_readme_names_no_machine_path():
    for page in PAGES:
        assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", page.read_text(encoding="utf-8")), page
