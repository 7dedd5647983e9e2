"""`python -m quicbaton` is the `quicbaton` command."""

import sys

from quicbaton.cli.entry import run

sys.exit(run())
