"""Says where the script that made the bundled adapter is now."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.exit("sirl: error: python -m sirl.demo.organism is python -m sirl.organism.make now")
