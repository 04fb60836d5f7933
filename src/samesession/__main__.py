"""``python -m samesession`` is the command ``samesession``."""

import sys

from samesession.cli import main

if __name__ == "__main__":
    sys.exit(main())
