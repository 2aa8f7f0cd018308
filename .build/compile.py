"""Compile what a run spends its time in to C, where a compiler is at hand; without one the wheel is plain Python.

Law: compiled or not, the same sources do the same, so a build never fails for want of a compiler: it says so and
goes on. An editable install is never compiled. BULKGROK_PURE=1 leaves it out, BULKGROK_COMPILED=1 insists on it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

GROUP = "bulkgrok"
MODULES = (
    "core/jsonscan core/jsontext core/lifecycle core/model core/money core/outcome core/part core/retry core/values",
    "core/verdict kinds/chat kinds/jsonread kinds/prices kinds/replies kinds/rows kinds/rowvalues kinds/shapes",
    "kinds/skim scheduler/door scheduler/estimates scheduler/governor scheduler/lanes scheduler/latency",
    "scheduler/limits scheduler/pace scheduler/polling scheduler/purse scheduler/scheduler scheduler/waiting",
    "scheduler/window dispatch/account dispatch/post dispatch/settle transport/api",
    "transport/asking transport/patience transport/quoting transport/reading",
    "checkpoint/committer checkpoint/tally checkpoint/values checkpoint/writing sinks/line engine/conductor",
    "engine/stages",
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

    os.chdir(root)
    names = [f"bulkgrok/{name}.py" for line in MODULES for name in line.split()]
    # Other people's types may promise what their code does not keep, and compiled code checks them: they are left out.
    flags = ["--config-file=", f"--cache-dir={folder / 'types'}", "--no-site-packages"]
    flags += ["--ignore-missing-imports", "--follow-imports=silent"]
    extensions = mypycify(
        [*flags, *names],
        opt_level=os.environ.get("O","2"),
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
