"""When: how much may be in flight, how fast, for how much, and what goes next. Knows no HTTP and no checkpoint."""
