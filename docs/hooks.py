"""What the site has beside this folder: the README as its first page, what pages link to elsewhere, and the reference.

mkdocs calls the functions named `on_..`; mkdocs.yml names this file.
"""

import logging
import posixpath
import re

import reference
from mkdocs.structure.files import File

LINK = re.compile(r"(?<=\]\()(?!https?:|#)([^)#\s]+)")
FETCHED = re.compile(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="((?:https?:)?//[^"]+)"')
log = logging.getLogger("mkdocs.hooks.jem")  # under --strict a warning is an error


def place(path: str) -> str:
    """Where a file of the repository is in the site."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def origin(uri: str) -> str:
    """Where a page of the site is in the repository."""
    if uri == "index.md":
        return "README.md"
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def target(path: str, link: str) -> str:
    """The file of the repository to which a page of it links."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def linked() -> list[str]:
    """The README and the files outside of docs/ to which pages link, and those to which these do."""
    todo = ["README.md", *(f"docs/{path.name}" for path in sorted((reference.ROOT / "docs").glob("*.md")))]
    for path in todo:  # which grows
        if path.endswith(".md"):
            found = {target(path, link) for link in LINK.findall((reference.ROOT / path).read_text())}
            todo += sorted(f for f in found - {*todo} if (reference.ROOT / f).is_file())
    return [path for path in todo if not path.startswith("docs/")]


def on_config(config):
    """The reference ends the navigation."""
    config.nav.append({"Reference": [{page.title: uri} for uri, page in reference.pages().items()]})
    return config


def on_files(files, config):
    """Files that are not in this folder."""
    for path in linked():
        files.append(File.generated(config, place(path), abs_src_path=str(reference.ROOT / path)))
    for uri, page in reference.pages().items():
        files.append(File.generated(config, uri, content=reference.text(page)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files of the repository become links between pages."""
    uri = page.file.src_uri

    def moved(match):
        path = target(origin(uri), match[1])
        return posixpath.relpath(place(path), posixpath.dirname(uri)) if (reference.ROOT / path).is_file() else match[1]

    return LINK.sub(moved, markdown)


def on_page_content(html, page, config, files):
    """What the reference lacks is a warning."""
    if found := reference.pages().get(page.file.src_uri):
        for name in reference.not_shown(html, found):
            log.warning(f"{page.file.src_uri} has no docstring of {name}")


def on_post_page(output, page, config):
    """So is what a reader's browser would fetch from elsewhere."""
    for url in FETCHED.findall(output):
        log.warning(f"{page.file.src_uri} fetches {url}")
