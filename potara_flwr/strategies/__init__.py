"""How adapters are averaged and sent: one file a strategy."""
