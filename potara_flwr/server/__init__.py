"""The server's side of a run: gathering, rounds, history, checkpoint."""
