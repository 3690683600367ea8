"""Test the documentation site: its pages, its links, and that it loads nothing from the network."""

import ast
import re
import sys
from types import SimpleNamespace

import pytest
import yaml

from tests.helpers import REPOSITORY, read_page

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def pages(hook):
    """The hook that generates pages; MkDocs itself need not be installed."""
    parts = ("config", "config.defaults", "structure", "structure.files")
    stand_in = SimpleNamespace(MkDocsConfig=None, File=None, Files=None)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mkdocs", *(f"mkdocs.{part}" for part in parts)):
            patch.setitem(sys.modules, name, stand_in)
        return hook("pages")


@pytest.fixture(scope="module")
def navigation() -> list[str]:
    sections = yaml.safe_load(read_page("mkdocs.yml"))["nav"]
    return [page for section in sections for page in list(section.values())[0]]


def test_every_page_of_the_navigation_is_there(pages, navigation):
    written = {str(file.relative_to(DOCS)) for file in DOCS.rglob("*.md")}
    assert len(navigation) == len(set(navigation))
    assert set(navigation) <= written | set(pages.PAGES) | {pages.CONFIG_PAGE}
    assert all((REPOSITORY / source).is_file() for source in pages.PAGES.values())


def test_images_beside_a_page_are_copied_with_it(pages, monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "REPOSITORY", tmp_path)
    for name in ("projects/HSSN/study/plot.png", "docs/images/demo.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = "projects/HSSN/study/README.md"
    text = "![a](plot.png) ![b](../../../docs/images/demo.png) ![c](lost.png) [d](plot.png)"
    assert pages.images_elsewhere(text, source) == ["projects/HSSN/study/plot.png"]
    assert pages.site_links(text, "study.md") == (
        "![a](images/projects-HSSN-study-plot.png) ![b](images/demo.png) ![c](lost.png) d"
    )


def test_every_public_package_has_a_reference_page(navigation):
    packages = {file.parent.name for file in (REPOSITORY / "hiera_seg").glob("*/__init__.py")}
    assert {"losses", "hierarchy", "inference"} <= packages
    for package in packages - {"config"}:  # whose page is made from its keys
        page = (DOCS / "reference" / f"{package}.md").read_text(encoding="utf-8")
        assert re.search(rf"^::: hiera_seg\.{package}$", page, flags=re.M)


@pytest.mark.parametrize(
    ("page", "written", "in_site"),
    [
        ("index.md", "[a](docs/losses.md#bce)", "[a](losses.md#bce)"),
        ("index.md", "![a](docs/images/demo.png)", "![a](images/demo.png)"),
        ("index.md", "[a](datasets/README.md)", "[a](datasets.md)"),
        ("datasets.md", "[a](../docs/metrics.md)", "[a](metrics.md)"),
        ("hssn.md", "[a](../../docs/fast_dev_run.md), [b](configs)", "[a](fast_dev_run.md), b"),
        ("losses.md", "[a](metrics.md) [b](../README.md)", "[a](metrics.md) [b](index.md)"),
        ("reference/config.md", "[a](../decoding.md)", "[a](../decoding.md)"),
        ("training.md", "[a](../hiera_seg/config/defaults.py)", "[a](reference/config.md)"),
        ("index.md", "[a](https://x.org/y) [b](#c)", "[a](https://x.org/y) [b](#c)"),
        ("index.md", "[a](docs/no_such_page.md)", "[a](no_such_page.md)"),  # MkDocs reports it
        ("index.md", "```\n[a](docs/losses.md)\n```", "```\n[a](docs/losses.md)\n```"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(pages, page, written, in_site):
    assert pages.site_links(written, page) == in_site


def anchors(markdown: str) -> set[str]:
    """Return the anchors of the headings of a page that GitHub and the site have both."""
    text = re.sub(r"^ *```.*?^ *```", "", markdown, flags=re.M | re.S)
    titles = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    plain = [re.sub(r"[^\w\s-]", "", title).lower().strip() for title in titles]
    return {"#" + title.replace(" ", "-") for title in plain if "  " not in title}


def test_links_lead_somewhere_in_the_repository(pages):
    folders = ("docs", "datasets", "projects", "configs", "hiera_seg", "tests", "tools")
    files = [
        *REPOSITORY.glob("*.md"),
        *(f for x in folders for f in (REPOSITORY / x).rglob("*.md")),
    ]
    found, found_anchors, broken = 0, 0, []
    for file in files:
        text = re.sub(r"^ *```.*?^ *```", "", file.read_text(encoding="utf-8"), flags=re.M | re.S)
        for match in pages.LINK.finditer(text):
            target = match["target"]
            if target and not re.match("[a-z]+:", target):
                found += 1
                if not (file.parent / target).exists():
                    broken.append(f"{file.relative_to(REPOSITORY)}: {target}")
            goal = file.parent / target if target else file
            if match["anchor"] and goal.suffix == ".md" and goal.is_file():
                found_anchors += 1
                if match["anchor"] not in anchors(goal.read_text(encoding="utf-8")):
                    broken.append(f"{file.relative_to(REPOSITORY)}: {target}{match['anchor']}")
    assert found > 50 and found_anchors > 50 and broken == []


def test_addresses_that_a_page_loads_are_found(hook, tmp_path):
    check = hook("check_offline")
    (tmp_path / "index.html").write_text(
        '<a href="https://x.org">a link is fine</a><link rel="canonical" href="https://x.org/">'
        '<script src="assets/a.js"></script>'
    )
    assert check.remote_files(tmp_path) == {}
    page, sheet = tmp_path / "page.html", tmp_path / "a.css"
    page.write_text('<script src="https://x.org/a.js"></script><img src="//x.org/b.png">')
    sheet.write_text("@font-face {src: url(https://x.org/c.woff)}")
    assert check.remote_files(tmp_path) == {
        page: ["https://x.org/a.js", "//x.org/b.png"],
        sheet: ["url(...)"],
    }


def test_docstrings_become_markdown(hook):
    pytest.importorskip("griffe")
    docstrings = hook("docstrings")
    text = docstrings.as_markdown("See :func:`~hiera_seg.modeling.decode`, ``x`` of::\n\n    a::b")
    link = '<autoref identifier="hiera_seg.modeling.decode" optional><code>modeling.decode</code>'
    assert text == f"See {link}</autoref>, `x` of:\n\n    a::b"
    assert docstrings.with_type("A.\n\nReturns:\n    {a: b}", "dict") == (
        "A.\n\nReturns:\n    dict: {a: b}"
    )
    module = ast.parse('LOSSES = {}\nLOSSES.__doc__ = """\nBy name.\n"""\n')
    assert docstrings.assigned_docstrings(module) == {"LOSSES": "By name."}
