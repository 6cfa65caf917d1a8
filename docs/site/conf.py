"""Sphinx's settings for the reading site; `python -m personalab site` puts its sources together."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "Persona Lab"
author = project_copyright = "The Persona Lab authors"
language = "en"
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.autodoc", "sphinx.ext.githubpages", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_math_renderer = "mathml"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

nb_execution_mode = "off"  # outputs are those on record
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["toc.not_included"]  # decisions, which their own page lists

default_role = "code"  # what docstrings put in single backticks
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True  # by their names: the content guard's are the words that nobody shall read
autodoc_typehints = "signature"  # jaxtyping's letters are in the architecture page
napoleon_use_rtype = False
napoleon_use_ivar = True


def _inline(writer, node: nodes.math) -> None:
    writer.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(writer, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def _says_nothing(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """A field of a NamedTuple: the signature has it."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def _examples_are_code(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Indented lines behind a paragraph are code or commands, as Markdown has it; reStructuredText would quote them."""
    for k in range(len(lines) - 1, 1, -1):
        above = lines[k - 2]
        if lines[k].startswith("    ") and not lines[k - 1].strip() and above.strip() and above[0] != " ":
            lines[k:k] = ["::", ""]


def setup(app: Sphinx) -> None:
    """Formulas as MathML, which browsers read by themselves: no script, nothing to fetch."""
    app.connect("autodoc-skip-member", _says_nothing)
    app.connect("autodoc-process-docstring", _examples_are_code, priority=400)  # before napoleon reads its sections
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_display, None))
