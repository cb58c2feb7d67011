"""What travels between server and clients: encoded, counted, checked."""
