"""``python -m simulations.command`` is ``potara``, without an installed script."""

import sys

from simulations.command.main import main

sys.exit(main())
