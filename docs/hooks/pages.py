"""MkDocs hook that adds pages from elsewhere in the repository, and pages made from code.

For example, the README of the repository is the first page of the site (PAGES). Links in these
files are written for readers of the repository, and are converted to links of the site.
"""

import json
import os
import re
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

HOOKS = Path(__file__).resolve().parent
REPOSITORY = HOOKS.parents[1]
DOCS = "docs"
# page of the site: file of the repository
PAGES = {
    "index.md": "README.md",
    "datasets.md": "datasets/README.md",
    "hssn.md": "projects/HSSN/README.md",
    "study.md": "projects/HSSN/study/README.md",
    "lazy.md": "projects/LazyHSSN/README.md",
    "changelog.md": "CHANGELOG.md",
    "quick_start.md": "docs/quick_start.ipynb",
}
CONFIG_PAGE = "reference/config.md"
CONFIG_SOURCE = "hiera_seg/config/defaults.py"  # its source, which files of the repository link to
LINK = re.compile(r"(?P<head>!?\[(?P<text>[^\]]*)\])\((?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)")
NOTES = re.compile(r"\A(?:<!--.*?-->\s*)+", flags=re.DOTALL)  # for editors of the file
FENCE = re.compile(r"^ *```")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    sys.path.insert(0, str(HOOKS))
    from config_page import config_page  # imports Detectron2: only when the site is built
    from notebook_page import notebook_page

    for page, source in PAGES.items():
        text = NOTES.sub("", (REPOSITORY / source).read_text(encoding="utf-8"))
        if source.endswith(".ipynb"):
            text = notebook_page(json.loads(text))
        files.append(File.generated(config, page, content=text))
        for image in images_elsewhere(text, source):
            copy = File.generated(config, image_in_site(image), abs_src_path=REPOSITORY / image)
            files.append(copy)
    files.append(File.generated(config, CONFIG_PAGE, content=config_page()))
    return files


def images_elsewhere(markdown: str, source: str) -> list[str]:
    """Return the images of a text that are not in docs/, as paths in the repository."""
    targets = [match["target"] for match in LINK.finditer(markdown) if match["head"][0] == "!"]
    paths = {os.path.normpath(PurePosixPath(source).parent / target) for target in targets}
    return sorted(
        path for path in paths if not path.startswith(DOCS) and (REPOSITORY / path).is_file()
    )


def image_in_site(path: str) -> str:
    return f"images/{path.replace('/', '-')}"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    return site_links(markdown, page.file.src_uri)


def site_links(markdown: str, page: str) -> str:
    """Convert the links of a page from paths in the repository to paths in the site.

    A link to a file that is not in the site, such as a config, becomes plain text.

    Args:
        markdown: the text.
        page: its path in the site, such as ``reference/config.md``.
    """
    source = PurePosixPath(PAGES.get(page, f"{DOCS}/{page}"))

    def place(match: re.Match) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = os.path.normpath(source.parent / target)
        pages = {file: name for name, file in PAGES.items()} | {CONFIG_SOURCE: CONFIG_PAGE}
        if path in pages:
            inside = pages[path]
        elif path.startswith(f"{DOCS}/"):
            inside = path.removeprefix(f"{DOCS}/")
        elif not (REPOSITORY / path).exists():
            return match[0]  # MkDocs reports it
        elif match["head"][0] == "!":
            inside = image_in_site(path)
        else:
            return match["text"]
        return f"{match['head']}({os.path.relpath(inside, os.path.dirname(page) or '.')}{anchor})"

    lines, fenced = [], False
    for line in markdown.splitlines():
        fenced ^= bool(FENCE.match(line))
        lines.append(line if fenced or line.startswith("    ") else LINK.sub(place, line))
    return "\n".join(lines)
