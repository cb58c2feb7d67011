"""What every room needs: errors, seeds, files, time, the version of the code."""
