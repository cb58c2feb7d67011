"""Where samples come from and whose they are, before any task knows what they mean."""
