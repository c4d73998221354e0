"""Sphinx: the site in ``docs``, built by ``sphinx-build -W docs docs/_build``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import lodestar_live

project = "Lodestar Live"
author = "the lodestar_live authors"
version = release = lodestar_live.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "reference"]
exclude_patterns = ["_build", "_ext", "reference/_made"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "npt.ArrayLike": "ArrayLike"}
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
add_module_names = False

html_theme = "furo"
html_title = f"Lodestar Live {release}"
