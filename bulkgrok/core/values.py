"""Values of which there are dozens a row, made as fast as ordinary objects.

Law: frozen all the same, for whoever reads the code and for the type checker, which sees `dataclass(frozen=True)`. At
run time nothing guards them: setting each field through `object.__setattr__`, as frozen dataclasses do, takes three
times as long as all the rest of making one, a tenth of a row's whole processor time.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TypeVar

T = TypeVar("T")


def quick(cls: type[T]) -> type[T]:
    """Let instances of a frozen, slotted, keyword-only dataclass be made without its guards."""
    names: dict[str, object] = {}
    arguments, lines = [], []
    for found in fields(cls):  # type: ignore[arg-type] # it is one
        assert found.default_factory is MISSING, f"{cls.__name__}.{found.name}: a default must be a value"  # noqa: S101
        if found.default is not MISSING:
            names[f"_{found.name}"] = found.default
        arguments.append(found.name if found.default is MISSING else f"{found.name}=_{found.name}")
        lines.append(f" self.{found.name}={found.name}")
    made: dict[str, object] = {}
    exec(f"def __init__(self,*,{','.join(arguments)}):\n" + "\n".join(lines), names, made)  # noqa: S102 - as dataclasses do
    cls.__init__ = made["__init__"]  # type: ignore[assignment]
    del cls.__setattr__, cls.__delattr__
    return cls
