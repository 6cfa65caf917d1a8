"""Is the reading site sound? Its links, and, where there is a browser, its pages: on a phone, in the dark, by axe-core.

    python3 .ci/pages.py                                                # links only; what CI runs
    python3 .ci/pages.py --axe package/axe.min.js --shots /tmp/shots    # all of it, some minutes

The second needs what the course doesn't install: Playwright (`pip install playwright`, in an environment of its own),
Chromium (on the PATH, or where CHROMIUM says), and axe-core (`npm pack axe-core`, then `tar xf` it).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import shutil
import sys
from codecs import decode
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).resolve().parent.parent / "runs" / "site" / "html"
DESKTOP, PHONE = {"width": 1300, "height": 1000}, {"width": 390, "height": 844}
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
FETCHES = ("script", "link", "img", "iframe", "source", "video", "audio")  # their addresses are loaded by themselves
GUARDED = "zbgureshpxre"  # one of the content guard's words, encoded as there
SERIOUS = ("serious", "critical")
OPENED = "document.querySelectorAll('details:not(.interactive)').forEach((d) => (d.open = true))"
# The innermost elements that reach beyond the window and are in no box that scrolls.
WIDE = """() => [...document.querySelectorAll('article *')].filter((e) => {
  const box = e.getBoundingClientRect();
  for (let p = e; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== "visible") return false;
  return box.width && box.right > innerWidth + 1;
}).slice(-2).map((e) => e.outerHTML.slice(0, 90))"""


class Page(HTMLParser):
    """The anchors of a page, and where its elements point."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = {""}
        self.links: list[tuple[str, str]] = []  # tag and address
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep what names or points."""
        given = {key: value for key, value in attrs if value}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        self.links += [(tag, given[key]) for key in ("href", "src", "data-figure") if key in given]


def broken_links(site: Path) -> Iterator[str]:
    """A line for each link that leads nowhere, each thing fetched from elsewhere, each API page misread."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        where = path.relative_to(site).as_posix()
        for tag, address in dict.fromkeys(page.links):
            url = urlsplit(address)
            if url.scheme or url.netloc:
                if tag in FETCHES and url.scheme != "data":
                    yield f"{where}: <{tag}> fetches {address[:90]}"
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.exists():
                yield f"{where}: no file for {address}"
            elif target in pages and unquote(url.fragment) not in pages[target].anchors:
                yield f"{where}: no such anchor: {address}"
        if path.parent.name == "api":
            yield from (f"{where}: {fault}" for fault in _misread(path.read_text("utf-8")))


def _misread(page: str) -> Iterator[str]:
    """What Sphinx makes of docstrings and defaults if it is not told otherwise."""
    if "<blockquote>" in page:
        yield "an example in a docstring is shown as a quotation, so that it cannot be copied"
    if decode(GUARDED, "rot13") in page:
        yield "a default is shown by its value: the words that the content guard keeps from readers"


def browsed(site: Path, chromium: str, axe: Path | None, shots: Path | None) -> Iterator[str]:
    """A line for each fault that shows in a browser."""
    from playwright.sync_api import sync_playwright

    script = axe.read_text(encoding="utf-8") if axe else ""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        for scheme, size in itertools.product(("light", "dark"), (DESKTOP, PHONE)):
            page = browser.new_context(color_scheme=scheme, viewport=size).new_page()
            seen: list[str] = []
            page.on("pageerror", lambda error, seen=seen: seen.append(f"error: {error}"))
            page.on("request", lambda r, seen=seen: seen.append(f"fetches {r.url}") if _outside(r.url) else None)
            for path in sorted(site.rglob("*.html")):
                page.goto(path.as_uri())
                name = path.relative_to(site).as_posix()
                where = f"{name}, {scheme}, {size['width']} px"
                if shots:
                    stem = f"{name.removesuffix('.html').replace('/', '-')}-{scheme}-{size['width']}"
                    page.screenshot(path=shots / f"{stem}.png")
                yield from (f"{where}: {fault}" for fault in _faults(page, script))
                yield from (f"{where}: {fault}" for fault in seen)
                seen.clear()
            page.context.close()
        yield from _works(browser.new_context(viewport=DESKTOP).new_page(), site)
        browser.close()


def _outside(url: str) -> bool:
    return not url.startswith(("file:", "data:", "blob:"))


def _faults(page: Any, script: str) -> Iterator[str]:
    """Wider than the window, or what axe-core calls serious, with everything unfolded."""
    page.evaluate(OPENED)
    if page.evaluate("document.documentElement.scrollWidth > innerWidth + 1"):
        yield f"wider than the window: {page.evaluate(WIDE)}"
    if script:
        page.evaluate(script)
        for rule in page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]:
            if rule["impact"] in SERIOUS:
                yield f"{rule['impact']}: {rule['id']}, {len(rule['nodes'])} times: {rule['nodes'][0]['html'][:120]}"


def _works(page: Any, site: Path) -> Iterator[str]:
    """Does the search find, and does every section's first interactive figure appear?"""
    page.goto((site / "search.html").as_uri() + "?q=steering")
    page.wait_for_timeout(5000)
    if not page.locator("#search-results li").count():
        yield "search.html: finds nothing for steering"
    for path in sorted((site / "sections").glob("*.html")):
        page.goto(path.as_uri())
        if page.locator("details.interactive").count():
            page.locator("details.interactive > summary").first.click()
            try:
                page.wait_for_selector("details.interactive .main-svg", timeout=60_000)
            except Exception as error:  # Playwright's, which is not there to import where there is no browser
                yield f"{path.name}: its first interactive figure doesn't appear: {str(error)[:80]}"


def main() -> int:
    """Print what is wrong, a line each; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", nargs="?", type=Path, default=SITE, help="the folder html/ that `make site` made")
    parser.add_argument("--axe", type=Path, help="axe.min.js")
    parser.add_argument("--shots", type=Path, help="folder for a screenshot of each page")
    parser.add_argument("--browser", action="store_true", help="widths, search and figures, without axe-core")
    args = parser.parse_args()
    site = args.site.resolve()
    if not (site / "index.html").exists():
        parser.error(f"{site} has no index.html: run `python3 -m personalab site` first.")
    sizes = Counter[str]()
    for path in site.rglob("*"):
        sizes[path.suffix] += path.stat().st_size if path.is_file() else 0
    print(f"{len([*site.rglob('*.html')])} pages, {sizes['.html'] / 1e6:.1f} MB of HTML, {sizes.total() / 1e6:.1f} MB.")
    problems = [*broken_links(site)]
    if args.axe or args.browser or args.shots:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
        if importlib.util.find_spec("playwright") is None or not chromium:
            print("Skipped: what needs a browser. Playwright or Chromium is missing: see the top of this file.")
        else:
            if args.shots:
                args.shots.mkdir(parents=True, exist_ok=True)
            problems += browsed(site, chromium, args.axe, args.shots)
    print(*problems or ["Nothing found."], sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
