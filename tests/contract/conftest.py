"""Over a real S3 server, which takes a hundred times as long as a disk, a few seeds of each suite have to do."""

_SEEDS_OVER_S3 = 2


def pytest_collection_modifyitems(config, items):
    params = [getattr(getattr(item, "callspec", None), "params", {}) for item in items]
    spared = [each.get("lies") == "s3" and each.get("seed", 0) >= _SEEDS_OVER_S3 for each in params]
    config.hook.pytest_deselected(items=[item for item, spare in zip(items, spared, strict=True) if spare])
    items[:] = [item for item, spare in zip(items, spared, strict=True) if not spare]
