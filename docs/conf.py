"""How the pages are built: ``make docs``."""

from __future__ import annotations

import re
from pathlib import Path

from sphinx.application import Sphinx

import pool_telemetry

ROOT = Path(__file__).parents[1]

project = "pool_telemetry"
version = release = pool_telemetry.__version__
copyright = "The authors of pool_telemetry"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
nitpicky = True
# Classes of others, whose pages are elsewhere.
nitpick_ignore_regex = [
    ("py:class", r"(opentelemetry\.|typing\.|collections\.|datetime\.|TextIO|MeterProvider|TracerProvider|Never).*")
]
suppress_warnings = ["epub.unknown_project_files"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

html_theme = "furo"
# A report has a hundred columns, and is to be seen without scrolling.
html_theme_options = {"light_css_variables": {"code-font-size": "72%"}}
html_title = f"pool_telemetry {release}"
html_show_copyright = html_show_sphinx = False


_LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)[^)]*\)")


def _leave_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Keep the words of links to files of the repository that are no pages: in a checkout they lead there."""
    folder = Path(app.env.doc2path(page)).parent

    def words(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        return link[1] if target.exists() and ROOT / "docs" not in target.parents else link[0]

    source[0] = _LINK.sub(words, source[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", _leave_outside)
