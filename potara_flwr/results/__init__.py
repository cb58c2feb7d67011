"""What a run leaves behind: folder, adapters, tables, figures, report."""
