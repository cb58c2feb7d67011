"""``python -m potara_flwr.command`` is ``potara``, without an installed script."""

import sys

from potara_flwr.command.main import main

sys.exit(main())
