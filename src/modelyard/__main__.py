"""`python -m modelyard` is the command line."""

import sys

from modelyard.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
