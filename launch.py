"""`python launch.py [-m] [group=option] [key=value]`, or `vtexp launch ...`; see `--help`.

Hydra's shell completion takes this file for a program by the words @hydra.main in it.
"""

import sys

from vtexp.cli.launch import main

if __name__ == "__main__":
    sys.exit(main())
