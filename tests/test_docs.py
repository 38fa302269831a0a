"""The documentation names files that exist, and its printed parts are what the scripts print."""

import re
from pathlib import Path

import pytest

from tools import bench, figures, pictures, questions, reference

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("models/**/*.md"), *ROOT.glob("fpga/**/*.md")])
ROOMS = (
    "weights_to_rom",
    "hdl",
    "sim",
    "synth",
    "fpga",
    "hardwire",
    "models",
    "tests",
    "tools",
    "docs",
    "examples",
    "requirements",
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def missing_paths(text: str) -> list[str]:
    """Paths of this repository in backticks that do not exist.  NAME and * stand for anything."""
    paths = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./*-]+)`", text)
    return [path for path in paths if not any(ROOT.glob(path.rstrip("/").replace("NAME", "*"))) and not path.startswith("build/")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_exist(page: Path) -> None:
    assert missing_paths(page.read_text()) == []


def test_code_names_pages_that_exist() -> None:
    code = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")] + [ROOT / "Makefile"]
    named = {(str(path.relative_to(ROOT)), page) for path in code for page in re.findall(r"docs/[\w./-]+\.md", path.read_text())}
    assert named
    assert [(path, page) for path, page in sorted(named) if not (ROOT / page).is_file()] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One title\n[a](nowhere.md) [b](#one-title) [c](#two) [d](https://example.org) `hdl/nowhere.py` `hdl/chip.py`\n"
    )
    assert broken_links(page) == ["nowhere.md", "#two"]
    assert missing_paths(page.read_text()) == ["hdl/nowhere.py"]


def test_every_page_is_in_the_navigation() -> None:
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md"))


def test_figures_are_what_the_reports_say() -> None:
    assert list(figures.differing()) == []


def test_pictures_are_what_the_script_draws() -> None:
    assert list(pictures.differing()) == []


def test_reference_is_what_the_code_says() -> None:
    assert list(reference.differing()) == []


def test_the_comparison_is_what_the_reports_say() -> None:
    assert list(bench.differing()) == []


def test_answers_are_what_the_report_says() -> None:
    assert list(questions.differing()) == []
