"""Which of the contract suites run over a real S3 server: none where there is none, and there a choice of each.

One takes a hundred times as long as on a disk. tests/acceptance/stores says where moto is missing.
"""

from harness import s3

_READERS = ("the_same_rows", "reading_again", "cut_off", "later_row_group")


def _spared(item):
    params = getattr(getattr(item, "callspec", None), "params", {})
    if "s3" not in {params.get("lies"), params.get("at")}:
        return False
    chosen = params.get("seed", 0) == 0 and ("lies" in params or any(name in item.name for name in _READERS))
    return not (s3.available() and chosen)


def pytest_collection_modifyitems(config, items):
    spared = list(map(_spared, items))
    config.hook.pytest_deselected(items=[item for item, spare in zip(items, spared, strict=True) if spare])
    items[:] = [item for item, spare in zip(items, spared, strict=True) if not spare]
