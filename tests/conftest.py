"""For all tests: a slow machine fails none of them."""

from hypothesis import settings

settings.register_profile("bulkgrok", deadline=None)
settings.load_profile("bulkgrok")
