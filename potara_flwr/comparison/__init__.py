"""Runs side by side: found, grouped, compared, drawn."""
