"""`python -m vltune`: the same as the command `vltune`."""

import sys

from vltune.cli import main

sys.exit(main())
