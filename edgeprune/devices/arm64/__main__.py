"""python -m edgeprune.devices.arm64: install the emulator, as `make arm64` does."""

import sys

from edgeprune.devices.arm64.installing import install
from edgeprune.errors import DONE, EdgepruneError


def main() -> int:
    """Install, telling what is done; return the exit code."""
    try:
        install(lambda line: print(line, file=sys.stderr, flush=True))
    except EdgepruneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return DONE


if __name__ == "__main__":
    sys.exit(main())
