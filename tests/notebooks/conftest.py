"""What runs notebooks is installed in an environment of its own: `make cookbook`."""

from importlib import import_module
from importlib.util import find_spec

collect_ignore = [] if find_spec("nbclient") else ["test_notebooks.py"]

if find_spec("matplotlib"):
    import_module("matplotlib.font_manager")  # lists the fonts once, or a page would say that it does
