"""The client's side of a run: who a node is, what a client keeps, how an adapter leaves it."""
