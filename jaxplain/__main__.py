"""``python -m jaxplain`` is ``jaxplain``."""

import sys

from jaxplain.cli import main

sys.exit(main())
