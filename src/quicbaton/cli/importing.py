"""Code of the user's by name: MODULE:NAME, and what is wrong with it, in the user's own terms."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import quicbaton
from quicbaton.errors import ConfigurationError
from quicbaton.reasons import Reason

_OURS: Final = str(Path(quicbaton.__file__).parent) + os.sep
#: Frames of a mistake that are shown, the innermost ones.
_MOST_FRAMES: Final = 8


def make(maker: Callable[[], Any], *, what: str, code: Reason) -> Any:
    """The result of a function of the user's. Raises ConfigurationError with `code` when it
    fails."""
    try:
        return maker()
    except Exception as error:
        # The boundary to the user's program, which may raise anything.
        raise ConfigurationError(f"cannot make {what}: {in_words(error)}", code=code) from error


def import_named(
    text: str, *, what: str, code: Reason, folder: Path | None = None
) -> tuple[ModuleType, Callable[..., Any]]:
    """The module, and the class or function that MODULE:NAME names, for the option `what`.

    Raises ConfigurationError with `code`: it cannot be imported, or has no such name.
    """
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise ConfigurationError(f"{what} is MODULE:NAME, got {text!r}", code=code)
    place = os.path.abspath(folder or os.getcwd())
    if place not in sys.path:
        # As `python -m` does it.
        sys.path.insert(0, place)
    started = time.time()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # The boundary to the program: importing it runs it.
        text = f"cannot import {module_name}: {in_words(error)}"
        if _is_missing(error, module_name):
            text += f"; it is looked for in {place} first (--app-dir names another folder)"
        raise ConfigurationError(text, code=code) from error
    _remove_doubtful_bytecode(started)
    found = getattr(module, name, None)
    if not callable(found):
        raise ConfigurationError(_no_such(module, name, found), code=code)
    return module, found


def in_words(error: BaseException) -> str:
    """What the user's code has raised, and where: the error in one line, then the user's own
    frames, the innermost one last."""
    first = f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        # Its text has the file's name only, and no folder.
        first = f"{type(error).__name__}: {error.msg}"
    lines = [_line(*frame) for frame in _frames(error)]
    return "\n".join([first, *lines])


def file_of(module: ModuleType) -> str:
    """The file of a module, for messages."""
    return getattr(module, "__file__", None) or f"module {module.__name__}"


# --- helpers, in reading order ----------------------------------------------------------------


def _is_missing(error: Exception, module_name: str) -> bool:
    """Whether the module itself, or its package, is what was not found."""
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return False
    return module_name == error.name or module_name.startswith(f"{error.name}.")


def _frames(error: BaseException) -> list[tuple[str, int, str, str]]:
    """File, line, function and source of the user's frames, without the import system's."""
    found = [
        (frame.filename, frame.lineno or 0, frame.name, frame.line or "")
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((_OURS, "<frozen "))
        and frame.filename != importlib.__file__
    ]
    if isinstance(error, SyntaxError) and error.filename:
        found.append((error.filename, error.lineno or 0, "", (error.text or "").strip()))
    return found[-_MOST_FRAMES:]


def _line(file: str, line: int, function: str, source: str) -> str:
    where = f", in {function}" if function and function != "<module>" else ""
    return f"  {file}, line {line}{where}" + (f": {source}" if source else "")


def _no_such(module: ModuleType, name: str, found: Any) -> str:
    """What is there instead of a class or function of that name."""
    file = file_of(module)
    if found is not None:
        what = f"it is {_a(type(found).__name__)}"
    elif hasattr(module, name):
        what = "it is None"
    else:
        what = "there is none"
    text = f"{file} has no class or function {name!r}: {what}"
    if candidates := _programs_in(module):
        text += f"; it has {', '.join(f'{module.__name__}:{one}' for one in candidates)}"
    return text


def _programs_in(module: ModuleType) -> list[str]:
    """Names of the module's own that look like programs."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and _is_own(value, module) and is_asgi_like(value)
    ]


def _is_own(value: Any, module: ModuleType) -> bool:
    is_defined = inspect.isclass(value) or inspect.isroutine(value)
    return not is_defined or getattr(value, "__module__", None) == module.__name__


def is_asgi_like(found: Any) -> bool:
    """Whether the object is called and awaited. A class is not: its objects may be."""
    if inspect.isclass(found):
        return False
    return inspect.iscoroutinefunction(found) or inspect.iscoroutinefunction(
        getattr(found, "__call__", None)  # noqa: B004 - whether that is async, not whether it is
    )


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


#: Bytecode tells its source by a time in whole seconds, and clocks of files lag a little.
_DOUBTFUL_S = 2.0


def _remove_doubtful_bytecode(started: float) -> None:
    """Delete the cached bytecode of sources that were written just before they were imported.

    Bytecode knows its source by size and second (PEP 3147's pyc header). Saved again within that
    second, at the same size, the source would not run: the next worker would find the bytecode of
    the one before, and a reload would have succeeded with the old code.
    """
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        if spec is None or not spec.cached or not spec.origin:
            continue
        try:
            if os.stat(spec.origin).st_mtime > started - _DOUBTFUL_S:
                os.unlink(spec.cached)
        except OSError:
            continue
