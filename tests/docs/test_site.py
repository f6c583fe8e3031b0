"""The documentation site: every page is in its navigation, every link and anchor leads somewhere.

Links are looked at twice: in the pages as they are written, with the anchors that the repository's
own pages have, and in the site as it is built.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
CONFIG = ROOT / "mkdocs.yml"
FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
SNIPPET = re.compile(r'^--8<-- "(?P<path>[^":]+)(?::(?P<part>\w+))?"$', re.M)


class Loader(yaml.SafeLoader):
    """Reads the site's configuration without making the Python objects that it names."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda _loader, _suffix, _node: None)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def named(nav: object) -> Iterator[str]:
    """The pages that a navigation names, in its order."""
    match nav:
        case str():
            yield nav
        case list():
            for entry in nav:
                yield from named(entry)
        case dict():
            for entry in nav.values():
                yield from named(entry)
        case _:
            raise AssertionError(nav)


def test_the_navigation_names_every_page_once_and_no_other():
    nav = list(named(yaml.load(CONFIG.read_text(encoding="utf-8"), Loader)["nav"]))
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES}
    assert pages - set(nav) == set(), "pages to name under `nav` in mkdocs.yml"
    assert set(nav) - pages == set(), "names under `nav` in mkdocs.yml that are no pages"
    assert len(nav) == len(set(nav)), "pages that mkdocs.yml names twice"


def prose(page: Path) -> str:
    """A page without its blocks of code, with what is put in as the site is built."""
    return FENCE.sub("", SNIPPET.sub(put_in, page.read_text(encoding="utf-8")))


def put_in(snippet: re.Match[str]) -> str:
    text = (ROOT / snippet["path"]).read_text(encoding="utf-8")
    if snippet["part"] is None:
        return text
    _, begun, rest = text.partition(f"<!-- --8<-- [start:{snippet['part']}] -->")
    inside, ended, _ = rest.partition(f"<!-- --8<-- [end:{snippet['part']}] -->")
    assert begun, snippet[0]
    assert ended, snippet[0]
    return inside


def anchors(page: Path) -> set[str]:
    """What can follow `#`: headings in lower case, without punctuation, joined by hyphens."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.M):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", shown).strip().lower().replace(" ", "-")
        assert slug not in found, f"two headings of {page_id(page)} have the anchor #{slug}"
        found.add(slug)
    return found


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=page_id)
def test_links_stay_on_the_site_and_their_anchors_are_there(page):
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"(https|mailto):", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link}: the site has only what is in docs/"
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def told(page: str) -> list[str]:
    """Names whose docstrings the site puts into a page."""
    return re.findall(r"^::: ([\w.]+)$", (DOCS / "reference" / page).read_text("utf-8"), re.M)


def test_the_python_page_has_every_public_name():
    import dno

    assert sorted(told("python.md")) == sorted(f"dno.{name}" for name in dno.__all__)


def test_the_page_for_plugins_has_every_name_that_they_import():
    from dno import plugin

    public = {name for name in vars(plugin) if not name.startswith("_")} - {"annotations"}
    names = told("plugin-api.md")
    assert len(names) == len(set(names))
    assert {f"dno.plugin.{name}" for name in public} == {
        name for name in names if name.startswith("dno.plugin.")
    }


class Refs(HTMLParser):
    """What a page of HTML refers to, loads, and has anchors for."""

    def __init__(self, html: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in {"img", "script"} and "src" in found:
            self.loads.append(found["src"])
        elif tag == "link" and found.get("rel") != "canonical" and "href" in found:
            self.loads.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from a copy so that nothing is left behind."""
    root = tmp_path_factory.mktemp("site")
    card = Path("plugins", "emoji", "dno_emoji", "README.md")
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copy(CONFIG, root)
    shutil.copytree(DOCS, root / "docs", ignore=skip)
    shutil.copytree(ROOT / "dno", root / "dno", ignore=skip)
    (root / card).parent.mkdir(parents=True)
    shutil.copy(ROOT / card, root / card)
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--clean"],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    # What mkdocstrings cannot read in a docstring it tells, and goes on.
    usual = ("Build started", "Build finished", "No issues found")
    assert [line for line in said.splitlines() if line and not line.startswith(usual)] == []
    return root / "build" / "site"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_every_page_is_in_it(site):
    for page in PAGES:
        place = page.relative_to(DOCS).with_suffix("")
        folder = place.parent if place.name == "index" else place
        assert (site / folder / "index.html").is_file(), page


@pytest.mark.slow
def test_search_knows_every_page(site):
    found = json.loads((site / "search.json").read_text(encoding="utf-8"))
    places = {item["location"].partition("#")[0].rstrip("/") for item in found["items"]}
    for page in PAGES:
        place = page.relative_to(DOCS).with_suffix("").as_posix()
        assert ("" if place == "index" else place) in places, place


@pytest.mark.slow
def test_no_link_picture_or_anchor_of_the_site_is_broken(site):
    pages = {path: Refs(path.read_text("utf-8")) for path in site.rglob("index.html")}
    broken = []
    for path, refs in pages.items():
        here = path.relative_to(site).as_posix()
        for ref in {*refs.links, *refs.loads}:
            if urlsplit(ref).scheme:
                continue
            asked = urlsplit(urljoin(f"https://site/{here}", ref))
            target = site / unquote(asked.path).lstrip("/")
            target = target / "index.html" if target.is_dir() else target
            there = pages.get(target)
            lost = there and asked.fragment and unquote(asked.fragment) not in there.anchors
            if lost or not target.is_file():
                broken.append(f"{here}: {ref}")
    assert broken == []


@pytest.mark.slow
def test_pages_ask_nobody_else_for_anything(site):
    for path in site.rglob("*.html"):
        for load in Refs(path.read_text("utf-8")).loads:
            assert urlsplit(load).scheme in {"", "data"}, (path, load)
            assert not load.startswith("//"), (path, load)


@pytest.mark.slow
def test_docstrings_are_on_the_site(site):
    for page in ("python", "plugin-api", "testing-helpers"):
        found = Refs((site / "reference" / page / "index.html").read_text("utf-8")).anchors
        for name in told(f"{page}.md"):
            assert name in found, name
