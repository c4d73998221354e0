"""Run the command line: ``python -m lodestar_live``."""

from lodestar_live.cli import script

if __name__ == "__main__":
    script()
