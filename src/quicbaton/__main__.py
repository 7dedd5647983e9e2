"""`python -m quicbaton` is the `quicbaton` command."""

import sys

from quicbaton.cli.main import main

sys.exit(main())
