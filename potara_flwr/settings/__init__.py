"""Every setting: its name, type, default, unit and range."""
