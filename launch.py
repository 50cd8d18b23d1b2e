"""`python launch.py [-m] [group=option] [key=value]`, or `vtexp launch ...`; see `--help`."""

import sys

from vtexp.cli.launch import main

if __name__ == "__main__":
    sys.exit(main())
