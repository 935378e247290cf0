"""What runs notebooks is installed in an environment of its own: `make cookbook`."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("nbclient") else ["test_notebooks.py"]
