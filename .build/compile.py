"""Compile what a run spends its time in to C, where a compiler is at hand; without one the wheel is plain Python.

Law: compiled or not, the same sources do the same, so a build never fails for want of a compiler: it says so and
goes on. An editable install is never compiled. BULKGROK_PURE=1 leaves it out, BULKGROK_COMPILED=1 insists on it.

What is written differently for the compiler: the constructors of dataclasses. `dataclass` and `core.values.quick` make
them at run time, and a call of what is made then takes ten times as long as of one that was compiled.
What it does not do well, and `tests/unit/test_compiled.py` keeps out: an `await` in a `finally` (in mypyc up to 2.4 an
exception of one call is raised again by the next) or in an `except` (whoever runs meanwhile takes that exception for
its own), `__slots__`, and constants that are tuples of floats.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GROUP = "bulkgrok"
MODULES = (
    "core/failpoints core/jsonscan core/jsontext core/lifecycle core/model core/money core/outcome core/part",
    "core/retry core/values",
    "core/verdict kinds/chat kinds/jsonread kinds/prices kinds/replies kinds/rows kinds/rowvalues kinds/shapes",
    "kinds/skim scheduler/door scheduler/estimates scheduler/governor scheduler/lanes scheduler/latency",
    "scheduler/limits scheduler/pace scheduler/polling scheduler/purse scheduler/scheduler scheduler/waiting",
    "scheduler/window dispatch/account dispatch/post dispatch/settle transport/api",
    "transport/asking transport/patience transport/quoting transport/reading transport/sending",
    "checkpoint/committer checkpoint/recent checkpoint/tally checkpoint/values checkpoint/writing",
    "sinks/line dispatch/deferred engine/conductor engine/stages engine/working",
)


class CompileHook(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel, beside their sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the wheel only points to the sources."""
        if version == "editable" or os.environ.get("BULKGROK_PURE"):
            return
        self._folder = tempfile.TemporaryDirectory()
        built = Path(self._folder.name) / "lib"
        command = [sys.executable, __file__, self.root, self._folder.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            if os.environ.get("BULKGROK_COMPILED"):
                self.app.abort(f"the hot modules could not be compiled:\n{done.stdout[-20_000:]}")
            self.app.display_warning("the hot modules could not be compiled: this wheel is plain Python, and slower")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in built.rglob("*.so"):
            build_data["force_include"][str(path)] = path.relative_to(built).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was compiled: it is in the wheel."""
        del version, build_data, artifact_path
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def compile_modules(root: Path, folder: Path) -> None:
    """Compile the modules below `root`; `folder`/lib is what a wheel takes."""
    from mypyc.build import mypycify  # noqa: PLC0415 - only where something is compiled
    from setuptools import Distribution  # noqa: PLC0415
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    source = folder / "source"
    shutil.copytree(root / GROUP, source / GROUP, ignore=shutil.ignore_patterns("__pycache__"))
    names = [f"{GROUP}/{name}.py" for line in MODULES for name in line.split()]
    for name in names:
        path = source / name
        path.write_text(with_constructors(path.read_text()))
    os.chdir(source)
    # Other people's types may promise what their code does not keep, and compiled code checks them: they are left out.
    flags = ["--config-file=", f"--cache-dir={folder / 'types'}", "--no-site-packages"]
    flags += ["--ignore-missing-imports", "--follow-imports=silent"]
    extensions = mypycify(
        [*flags, *names],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        target_dir=str(folder / "c"),
        group_name=GROUP,
    )
    command = build_ext(Distribution({"name": GROUP, "ext_modules": extensions}))
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "objects")
    command.ensure_finalized()
    _spread(command)
    command.run()


def with_constructors(source: str) -> str:
    """Return a module whose slotted dataclasses have constructors in writing, as far as their defaults are values."""
    lines = source.splitlines()
    for made in ast.walk(ast.parse(source)):
        if isinstance(made, ast.ClassDef) and (written := _constructor(source, made)) is not None:
            decorator, constructor = written
            first, last = made.decorator_list[0].lineno - 1, made.end_lineno or made.lineno
            lines[first] = decorator
            for number in range(first + 1, made.lineno - 1):
                lines[number] = ""
            lines[last - 1] += f"\n{constructor}"
    return "\n".join(lines) + "\n"


def _constructor(source: str, made: ast.ClassDef) -> tuple[str, str] | None:
    """Return the decorator and the constructor of a dataclass, None where they stay as they are."""
    calls = [each for each in made.decorator_list if isinstance(each, ast.Call)]
    others = {each.id for each in made.decorator_list if isinstance(each, ast.Name)}
    if len(calls) != 1 or others - {"quick"} or ast.unparse(calls[0].func) != "dataclass":
        return None
    options = {each.arg: ast.unparse(each.value) for each in calls[0].keywords}
    fields = [each for each in made.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)]
    if "slots" not in options or ("frozen" in options) != ("quick" in others):
        return None
    if any(each.value is not None and "field(" in ast.unparse(each.value) for each in fields):
        return None
    options = {key: value for key, value in options.items() if key not in {"slots", "frozen"}} | {"init": "False"}
    if "quick" in others:
        options["unsafe_hash"] = "True"
    names = [each.target.id for each in fields if isinstance(each.target, ast.Name)]
    arguments = ["self", *(["*"] if "kw_only" in options else [])]
    for name, each in zip(names, fields, strict=True):
        default = "" if each.value is None else f" = {ast.get_source_segment(source, each.value)}"
        arguments.append(f"{name}: {ast.get_source_segment(source, each.annotation)}{default}")
    decorator = f"@dataclass({', '.join(f'{key}={value}' for key, value in options.items())})"
    setting = "; ".join(f"self.{name} = {name}" for name in names)
    return decorator, f"    def __init__({', '.join(arguments)}) -> None: {setting}"


def _spread(command: Any) -> None:
    """Let a compiler run for each processor: one unit after the other would take minutes."""
    build = command.build_extension

    def build_extension(extension: Any) -> None:
        compiler = command.compiler
        one_by_one = type(compiler).compile.__get__(compiler)

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: one_by_one([source], **options), sources)
                return [name for names in objects for name in names]

        compiler.compile = compile_all
        build(extension)

    command.build_extension = build_extension


if __name__ == "__main__":
    compile_modules(Path(sys.argv[1]), Path(sys.argv[2]))
