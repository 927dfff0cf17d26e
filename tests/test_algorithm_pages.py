"""Every algorithm has a page of the same sections, with a status that names what shows it, and links that resolve."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tracer_agents.controllers.fixed import FIXED_CONTROLLERS
from tracer_agents.controllers.minimisers import MINIMISERS
from tracer_agents.rollout import ESTIMATORS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "algorithms"
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.name != "README.md")
SECTIONS = ["What it does", "Equations", "Promise", "Settings", "Use", "Measured", "Source"]
STATUS = re.compile(r"Status: \*\*(reproduced|tested|experimental)\*\*, .+\.")
ROW = re.compile(r"\| \[(?P<title>[^\]]+)\]\((?P<page>[\w-]+\.md)\) \| (?P<names>[^|]+) \| [^|]+ \| (?P<status>\w+) \|")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def rows_of_index(text: str) -> list[re.Match[str]]:
    """Return the rows of the table of all pages, the two lines of its head left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    rows = [ROW.fullmatch(line) for line in lines]
    assert all(rows), f"not a row of the table: {[line for line, row in zip(lines, rows, strict=True) if not row]}"
    return [row for row in rows if row]


def pages_of_names() -> dict[str, str]:
    """Return the page of every name in the table."""
    rows = rows_of_index((FOLDER / "README.md").read_text(encoding="utf-8"))
    return {name: row["page"] for row in rows for name in re.findall(r"`(\w+)`", row["names"])}


def check_page(text: str, file: Path) -> str:
    """Check title, status and sections of a page; return its status."""
    lines = re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
    assert lines[0].startswith("# "), f"{file.name} begins without a title"
    titles = [line for line in lines if line.startswith("#")]
    assert titles[1:] == [f"## {section}" for section in SECTIONS], f"{file.name} has the sections {titles[1:]}"
    found = [line for line in lines if line.startswith("Status:")]
    assert found == [lines[2]], f"{file.name} needs one status, in its third line, not {found}"
    status = STATUS.fullmatch(lines[2])
    assert status, f"{file.name} has the status {lines[2]!r}"
    if status[1] != "experimental":
        assert re.search(r"tests/[\w/]+\.py", lines[2]), f"the status of {file.name} names no test"
    if status[1] == "reproduced":
        assert re.search(r"\b1e-\d+", lines[2]), f"the status of {file.name} names no tolerance"
    assert "```python\n" in text.split("## Use\n")[1].split("\n## ")[0], f"{file.name} shows no use"
    measured = text.split("## Measured\n")[1].split("\n## ")[0]
    assert "](../results.md#" in measured, f"{file.name} does not say where its figures are from"
    return status[1]


def check_links(text: str, file: Path) -> None:
    """Check that files that are linked or named exist, and that linked headings do."""
    for named in re.findall(r"\btests/[\w/]+\.py\b", text):
        assert (ROOT / named).is_file(), f"{file.name} names {named}, which is not there"
    for target in re.findall(r"\]\(([^):]+)\)", text):
        path, _, anchor = target.partition("#")
        other = (file.parent / path).resolve() if path else file
        assert other.exists(), f"{file.name} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{file.name} links to {target}, which has no such heading"


@pytest.mark.parametrize("name", sorted({*MINIMISERS, *FIXED_CONTROLLERS, *ESTIMATORS}))
def test_every_registered_name_has_a_page_that_names_it(name: str) -> None:
    pages = pages_of_names()
    assert name in pages, f"no page in docs/algorithms/README.md for {name}"
    assert f"`{name}`" in (FOLDER / pages[name]).read_text(encoding="utf-8")


def test_the_table_is_of_all_pages_with_their_titles_and_states() -> None:
    rows = {row["page"]: row for row in rows_of_index((FOLDER / "README.md").read_text(encoding="utf-8"))}
    assert set(rows) == {page.name for page in PAGES}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert rows[page.name]["status"] == check_page(text, page)
        assert text.startswith(f"# {rows[page.name]['title']}\n"), f"{page.name} has another title in the table"


@every_page
def test_sections_and_status(page: Path) -> None:
    check_page(page.read_text(encoding="utf-8"), page)


@pytest.mark.parametrize("page", [*PAGES, FOLDER / "README.md"], ids=lambda page: page.stem)
def test_what_is_linked_or_named_is_there(page: Path) -> None:
    check_links(page.read_text(encoding="utf-8"), page)


@pytest.mark.parametrize(
    ("check", "old", "new", "message"),
    [
        (check_page, "## Promise", "## Bound", "has the sections"),
        (check_page, "**reproduced**", "**proved**", "has the status"),
        (check_page, "1e-10", "the last digit", "no tolerance"),
        (check_page, "Status: ", "State: ", "needs one status"),
        (check_page, "```python", "```text", "shows no use"),
        (check_page, "../results.md#random", "results.md#random", "are from"),
        (check_links, "tests/agents/test_fit.py", "tests/agents/test_nothing.py", "names tests/agents/test_nothing.py"),
        (check_links, "#random-simulated-teams", "#nothing", "no such heading"),
        (check_links, "results.md", "nothing.md", "links to"),
    ],
)
def test_a_wrong_page_fails(check: Callable[[str, Path], object], old: str, new: str, message: str) -> None:
    page = FOLDER / "regret-matching.md"
    text = page.read_text(encoding="utf-8")
    assert old in text
    wrong = text.replace(old, new)
    with pytest.raises(AssertionError, match=message):
        check(wrong, page)
