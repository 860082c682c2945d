"""The command `vltune`, also as `python -m vltune`."""

import contextlib
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Do what was typed; ends the process."""
    with contextlib.suppress(ImportError):  # of another package dassl
        from dassl.utils.interrupts import stand_by

        stand_by()
    from vltune import cli

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
