"""bulkgrok."""
