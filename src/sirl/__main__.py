"""`python -m sirl`, and `accelerate launch -m sirl train`: the command `sirl`."""

import sys

from sirl.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
