"""A hook of MkDocs: links of the documents to the rest of the repository work in the site too.

The documents are read in the repository as well, so they link to files beside ``docs`` by relative
paths. In the site each such file lies under ``repository/``: Markdown as a page, with its own links
followed in turn, anything else as it is.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent.parent
PREFIX: Final = "repository/"
KINDS: Final = "func|meth|class|attr|exc|data|mod"
ROLE: Final = re.compile(rf":(?:{KINDS}):<code>~?(?:[\w.]*\.)?(\w+)</code>")
"""A reference in a docstring, as MkDocs leaves it; shown as code by its last name."""

LINK: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")


def in_repository(src_uri: str) -> str:
    """The path in the repository of a file of the site."""
    return src_uri.removeprefix(PREFIX) if src_uri.startswith(PREFIX) else f"docs/{src_uri}"


def in_site(path: str) -> str:
    """The file of the site for a path in the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{PREFIX}{path}"


def targets(path: str) -> set[str]:
    """Paths in the repository that a Markdown file of it links to, as far as they are files."""
    text = (ROOT / path).read_text(encoding="utf-8")
    folder = posixpath.dirname(path)
    found = {posixpath.normpath(posixpath.join(folder, link)) for link in LINK.findall(text)}
    return {each for each in found if (ROOT / each).is_file()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the documents link to beside ``docs``."""
    waiting = [in_repository(file.src_uri) for file in files if file.src_uri.endswith(".md")]
    seen = set(waiting)
    while waiting:
        for target in targets(waiting.pop()) - seen:
            seen.add(target)
            if not target.startswith("docs/"):
                source = str(ROOT / target)
                files.append(File.generated(config, in_site(target), abs_src_path=source))
            if target.endswith(".md"):
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the files of the site."""
    here = page.file.src_uri
    path = in_repository(here)

    def pointed(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link[1]))
        if not (ROOT / target).is_file():
            return link[1]  # MkDocs says what is wrong with it
        return posixpath.relpath(in_site(target), posixpath.dirname(here) or ".")

    return LINK.sub(pointed, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show the references of docstrings as code, and leave out their marks of literal blocks."""
    return ROLE.sub(r"<code>\1</code>", html).replace("<p>::</p>\n", "")
