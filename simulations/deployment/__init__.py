"""A real federation on this machine: TLS, node keys, a database, and a process for every part."""
