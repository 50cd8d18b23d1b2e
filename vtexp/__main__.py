"""`python -m vtexp COMMAND`."""

import sys

from vtexp.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
