"""`python -m coluber` is the command line program `coluber`."""

import sys

from . import _native


def main():
    sys.stdout.flush()
    sys.exit(_native.run_program(["coluber", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
