"""The ``potara`` command: one small file a subcommand, light until something is really done."""
