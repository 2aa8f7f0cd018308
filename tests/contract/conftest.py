"""Which of the contract suites run over a real S3 server: none where there is none, and there a few seeds of each.

One takes a hundred times as long as on a disk. tests/acceptance/stores says where moto is missing.
"""

from harness import s3

_SEEDS_OVER_S3 = 2


def _spared(item):
    params = getattr(getattr(item, "callspec", None), "params", {})
    if "s3" not in {params.get("lies"), params.get("where")}:
        return False
    return not s3.available() or params.get("seed", 0) >= _SEEDS_OVER_S3


def pytest_collection_modifyitems(config, items):
    spared = list(map(_spared, items))
    config.hook.pytest_deselected(items=[item for item, spare in zip(items, spared, strict=True) if spare])
    items[:] = [item for item, spare in zip(items, spared, strict=True) if not spare]
