"""Compiles modules into the wheel, where QUICBATON_COMPILE is in the environment.

    QUICBATON_COMPILE=1 pip install .       make wheel

Without it the wheel is pure Python, and needs neither a compiler nor mypy to build. Which modules
are compiled says pyproject.toml, and why docs/decisions/0004-compiled.md. They are compiled as they
are; their sources are in the wheel as well, for tracebacks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Generated C, objects, extension modules, and mypy's cache: a second build takes half as long.
_FOLDER = Path("build", "compiled")


class CompileHook(BuildHookInterface[Any]):
    """Adds the extension modules to a wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What a build needs: mypy reads the types of everything that we import."""
        if not _is_asked_for():
            return []
        return ["mypy>=1.18", "setuptools>=77", *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable" or not _is_asked_for():
            return
        with contextlib.chdir(self.root):
            library = _compile(modules(self.config))
            for file in library.rglob("*.so"):
                build_data["force_include"][str(file.absolute())] = str(file.relative_to(library))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def modules(config: Mapping[str, Any]) -> list[str]:
    """The files to compile, from the repository's folder on; `config` is the hook's."""
    source = Path("src")
    files = {file for pattern in config["compiled"] for file in source.glob(pattern)}
    files -= {file for pattern in config["interpreted"] for file in source.glob(pattern)}
    return sorted(map(str, files))


def _is_asked_for() -> bool:
    return bool(os.environ.get("QUICBATON_COMPILE"))


def _compile(sources: list[str]) -> Path:
    """Compile these files, named from the present folder; the folder of what has come of them."""
    from mypyc.build import mypycify  # noqa: PLC0415 - a wheel of pure Python needs neither
    from setuptools import Distribution  # noqa: PLC0415

    library = _FOLDER / "lib"
    for old in library.rglob("*.so"):
        old.unlink()
    options = ["--config-file=pyproject.toml", f"--cache-dir={_FOLDER / 'mypy'}"]
    extensions = mypycify(
        [*options, *sources],
        opt_level="3",
        debug_level="0",
        group_name="quicbaton",
        target_dir=str(_FOLDER / "c"),
    )
    build = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib = str(library)
    build.build_temp = str(_FOLDER / "objects")
    build.ensure_finalized()
    build.run()
    return library
