"""When: how much may be in flight, how fast, and what goes next. Knows no HTTP and no checkpoint."""
