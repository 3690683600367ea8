#!/usr/bin/env python
"""Check that a built site loads nothing from the network: scripts, styles, fonts, images."""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path

# What a browser fetches by itself; the links of a page are for the reader to follow.
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
NOT_FETCHED = {"canonical", "prev", "next"}


class Remote(HTMLParser):
    """Collects what a page fetches from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        url = values.get(FETCHED.get(tag, ""), "") or ""
        if url.startswith(("http:", "https:", "//")) and values.get("rel") not in NOT_FETCHED:
            self.found.append(url)


def remote_files(site: Path) -> dict[Path, list[str]]:
    """By page, or style sheet, what it would load from the network."""
    found = {}
    for page in sorted(site.rglob("*.html")):
        reader = Remote()
        reader.feed(page.read_text(encoding="utf-8"))
        if reader.found:
            found[page] = reader.found
    for sheet in sorted(site.rglob("*.css")):
        if "url(http" in (text := sheet.read_text(encoding="utf-8")) or "url(//" in text:
            found[sheet] = ["url(...)"]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, help="folder of the built site")
    folder = parser.parse_args().site
    if not (folder / "index.html").is_file():
        sys.exit(f"error: {folder} holds no site: no index.html")
    remote = remote_files(folder)
    for file, urls in remote.items():
        print(f"error: {file} loads {', '.join(sorted(set(urls)))}", file=sys.stderr)
    sys.exit(1 if remote else 0)
