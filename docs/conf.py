"""Configuration of the documentation. It builds without a network."""

from __future__ import annotations

import os
from importlib.metadata import metadata

info = metadata("scgeneformer")
project = info["Name"]
author = "scgeneformer developers"
copyright = f"2026, {author}"
version = release = info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
default_role = "literal"

# Links into other packages need their inventories, that is a network: only where the documentation is published.
# For the same reason the build is not nitpicky: without inventories every AnnData in a signature would be a dead reference.
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/en/latest/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }
    if os.environ.get("READTHEDOCS")
    else {}
)

autodoc_member_order = "bysource"
autosummary_generate = True
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_rtype = False  # "Returns" sections describe; annotations give the types
typehints_defaults = "braces"
typehints_document_rtype_none = False
always_document_param_types = True

copybutton_prompt_is_regexp = True
copybutton_prompt_text = r">>> |\.\.\. "

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# tutorials carry the outputs of the run that their numbers come from
nb_execution_mode = "off"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "repository_url": "https://github.com/scgeneformer/scgeneformer",
    "use_repository_button": True,
    "path_to_docs": "docs/",
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the search box of the sidebar is enough
}
