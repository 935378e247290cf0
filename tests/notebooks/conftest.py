"""Configuration for notebook tests, whose packages are in a separate environment: `make cookbook`."""

from importlib import import_module
from importlib.util import find_spec

collect_ignore = [] if find_spec("nbclient") else ["test_notebooks.py"]

if find_spec("matplotlib"):
    import_module("matplotlib.font_manager")  # builds the font cache, which would print a message in a page
