"""Programs around the app: runs, measurements and the making of the embedded model."""
