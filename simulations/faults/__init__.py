"""Processes are killed, a save is cut short, a disk is full: what becomes of a run."""
