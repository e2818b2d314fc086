"""``python -m flash_internimage COMMAND``: the same as ``flash-internimage COMMAND``."""

import sys

from flash_internimage.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
