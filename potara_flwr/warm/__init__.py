"""Warm nodes: a SuperNode's client processes fork from a resident process that has loaded all.

Flower starts ``flwr-clientapp`` for every message. ``node.py`` puts a shim of that name first on
the SuperNode's path. It and two other programs are copied into a folder of the SuperNode's own, so
that all of them are of one version as long as it lives::

    SuperNode ──► superexec ──► shim.py ── Unix socket ──► resident.py ──fork──► flwr-clientapp
        └──────► keeper.py: owns the socket, starts the resident process where one is wanted

What an app wants to find loaded in its next message, it says by ``telling.py``.
"""
