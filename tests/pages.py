"""Look at a page: as HTML, with hostile or missing input, and in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{1}$ 漢字 & co"


class Page(HTMLParser):
    """Collects the elements of a page, and complains about unbalanced ones."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input", "image", "path", "circle", "use"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def assert_self_contained(html: str) -> None:
    """Nothing is loaded, nothing runs; only references may be followed."""
    page = Page(html)
    assert not page.named("script")
    for tag, attrs in page.elements:
        assert not any(name.startswith("on") for name in attrs)
        for name in ("src", "srcset", "data", "action", "poster", "xlink:href"):
            assert (attrs.get(name) or "data:").startswith("data:"), (tag, attrs)
        href = attrs.get("href") or "#"
        allowed = ("#", "data:", "https://doi.org/") if tag == "a" else ("#", "data:")
        assert href.startswith(allowed), (tag, attrs)
    without_links = re.sub(r'<a href="https://doi\.org/[^"]*">', "", html)
    assert not re.search(r"https?://|@import|url\((?!#)", without_links)


def assert_names_are_unique_and_known(html: str) -> None:
    names = [attrs["id"] for _, attrs in Page(html).elements if attrs.get("id")]
    assert len(names) == len(set(names))
    used = re.findall(r'(?:url\(#|href="#)([^)"]+)', html)
    assert set(used) <= set(names)


def hostile(node):
    if isinstance(node, dict):
        return {key: hostile(item) for key, item in node.items() if key != "schema_version"}
    if isinstance(node, list):
        return [hostile(item) for item in node]
    return HOSTILE if isinstance(node, str) else node


def replace_numbers(node, replacement, *, rng):
    if isinstance(node, dict):
        return {key: replace_numbers(item, replacement, rng=rng) for key, item in node.items()}
    if isinstance(node, list):
        return [replace_numbers(item, replacement, rng=rng) for item in node]
    is_number = isinstance(node, float) or (isinstance(node, int) and not isinstance(node, bool))
    return replacement if is_number and rng.random() < 0.5 else node


def paths(node, prefix=()):
    if isinstance(node, dict):
        for key, item in node.items():
            yield (*prefix, key)
            yield from paths(item, (*prefix, key))
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        yield from paths(node[-1], (*prefix, len(node) - 1))


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)
# Clouds of points are images within the SVG, which have no naturalWidth: each is opened once more
# as an element of the page, for which the load event (and with it the browser) waits.
PROBE = """<script>
let copies = [];
addEventListener("DOMContentLoaded", () => {
  copies = [...document.querySelectorAll("svg image")].map(inside => {
    const image = document.createElement("img");
    image.src = inside.getAttribute("href");
    image.style.cssText = "position:absolute;top:0;left:0;width:1px";
    document.body.append(image);
    return image;
  });
});
addEventListener("load", () => {
  const report = document.createElement("pre");
  report.id = "probe";
  report.textContent = JSON.stringify({
    images: [...document.images].map(image => image.naturalWidth),
    figures: [...document.querySelectorAll('svg[role="img"]')].map(figure => {
      const box = figure.getBoundingClientRect();
      return [box.width, box.height];
    }),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  });
  document.body.append(report);
});
</script>"""


def look(html: str, folder: Path, width: int) -> dict:
    """Open a page in a browser; it must not complain.

    Returns the natural widths of all images ("images"), width and height of all drawn figures
    ("figures"), and by how many pixels the page is wider than the window ("wide").
    """
    # The policy of the page forbids scripts, so the copy that is probed goes without it.
    copy_ = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', PROBE, html)
    assert copy_ != html
    for name, text in (("page.html", html), ("probe.html", copy_)):
        (folder / name).write_text(text, encoding="utf-8")
        done = browse(folder / name, width, "--dump-dom")
        assert "CONSOLE" not in done.stderr
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout)
    assert found
    return json.loads(found.group(1))


def browse(page: Path, width: int, *more: str) -> subprocess.CompletedProcess[str]:
    """Open a file in a headless browser."""
    command = [
        CHROMIUM or "",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={page.parent / f'profile-{page.name}'}",
        f"--window-size={width},900",
        "--enable-logging=stderr",
        *more,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
