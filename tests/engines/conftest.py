"""What the tests of the engines share."""

from __future__ import annotations

import importlib.util
import os

if "CI" not in os.environ and importlib.util.find_spec("modelyard.engines._trees") is None:
    collect_ignore = ["test_trees.py"]  # the kernel was not built: install a C compiler, then `make`
