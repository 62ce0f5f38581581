"""The site: `make docs` builds it in docs/_build/html, to be opened from the file system; nothing is downloaded."""

import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from invgen_pages import MODULES  # noqa: E402

import invgen  # noqa: E402

project, author, copyright = "invgen", "The invgen developers", "The invgen developers"
version = release = invgen.__version__

extensions = [
    "invgen_pages",  # first: it writes the pages that the others read
    "invgen_docstrings",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
    "sphinx_design",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/gallery/*.ipynb"]

html_theme = "furo"  # its fonts are the system's, its scripts its own
html_title = f"invgen {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style, pygments_dark_style = "default", "monokai"
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["colon_fence", "attrs_inline"]
myst_heading_anchors = 3

autosummary_generate = [f"generated/api/{module}.rst" for module in MODULES]
autosummary_imported_members = True
autosummary_filename_map = {"invgen.Forecast": "invgen.Forecast-class"}  # beside invgen.forecast, on any file system
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # a method is described once, by the class that promises it
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "params_style")]
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
default_role = "py:obj"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "generated/gallery",
    "filename_pattern": r"/(?!mri_kspace)\w+\.py$",  # that one needs measured k-space, which is not in the repository
    "image_scrapers": ("invgen_pages.pictures",),
    "capture_repr": (),
    "abort_on_example_error": True,
    "write_computation_times": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 1e9,  # the times of the machine that built the page say nothing to its reader
    "within_subsection_order": "ExampleTitleSortKey",
}
suppress_warnings = ["config.cache"]


def setup(app: Sphinx) -> None:
    """Leaves out the tree of all pages beside each page with `-t no_tree`: half of the time of a build, saved by tests."""

    def without(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
        context["toctree"] = lambda **options: ""

    if app.tags.has("no_tree"):
        app.connect("html-page-context", without, priority=100)  # before that of the theme
