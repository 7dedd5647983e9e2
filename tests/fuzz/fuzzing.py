"""The common parts of the fuzz targets in this folder.

`target_NAME.py` is the target NAME. It has

    target(data: bytes) -> None     raises for a fault of ours, and for nothing else
    seeds() -> list[bytes]          inputs to begin with, made by the code of today
    inputs() -> strategy            optional: how hypothesis should make inputs

A fault is an exception that is not one of the typed errors which the code under test documents, an
invariant that does not hold, or more work than the input has paid for. `corpus/NAME/` keeps inputs
as files: those that once failed, and those that reach far.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

from hypothesis import strategies as st

HERE: Final = Path(__file__).parent
CORPUS: Final = HERE / "corpus"
_INSTRUMENTED: Final = 10
#: Nothing longer is tried by hypothesis.
MAX_BYTES: Final = 1 << 12


class TooMuchWorkError(AssertionError):
    """An input of this size may not cost so much."""


def names() -> list[str]:
    """All targets."""
    return sorted(path.stem.removeprefix("target_") for path in HERE.glob("target_*.py"))


def load(name: str) -> ModuleType:
    """The module of a target."""
    return importlib.import_module(f"tests.fuzz.target_{name}")


def corpus(name: str) -> list[Path]:
    """A target's inputs in the repository."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def inputs(module: ModuleType, name: str) -> st.SearchStrategy[bytes]:
    """How hypothesis makes inputs: of nothing, of what is known, and as the target says."""
    known = [*module.seeds(), *(path.read_bytes() for path in corpus(name))]
    strategies = [st.binary(max_size=MAX_BYTES), _changed(known)]
    if hasattr(module, "inputs"):
        strategies.append(module.inputs())
    return st.one_of(strategies)


def _changed(known: list[bytes]) -> st.SearchStrategy[bytes]:
    """Known inputs with some pieces replaced, put in or taken out."""
    edits = st.lists(
        st.tuples(st.integers(0, 1 << 16), st.integers(0, 8), st.binary(max_size=9)), max_size=6
    )

    def change(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
        for position, length, piece in edits:
            at = position % (len(data) + 1)
            data = data[:at] + piece + data[at + length :]
        return data

    return st.builds(change, st.sampled_from(known), edits)


@contextlib.contextmanager
def at_most(calls: int) -> Iterator[None]:
    """Raise TooMuchWorkError when what runs meanwhile makes more calls, of Python or C functions.

    Counting calls gives the same answer on every machine, however busy, and ends what would not
    end by itself. Work inside one call is not seen.
    """
    # atheris puts calls of its own between all branches and comparisons.
    left = calls * _INSTRUMENTED if "atheris" in sys.modules else calls

    def count(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal left
        if event in ("call", "c_call"):
            left -= 1
            if left < 0:
                sys.setprofile(None)
                raise TooMuchWorkError(f"more than {calls} calls")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


@contextlib.contextmanager
def only(*kinds: type[Exception]) -> Iterator[None]:
    """These errors are documented: they are no fault."""
    with contextlib.suppress(*kinds):
        yield


class Reader:
    """Cuts an input into choices and pieces; it never runs dry, there is only less and less."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        return (self.take(1) or b"\0")[0]

    def take(self, size: int) -> bytes:
        piece = self._data[self._at : self._at + size]
        self._at += size
        return piece

    def rest(self) -> bytes:
        return self.take(len(self._data))


#: Makes an input, as the targets here read it.
Make = Callable[..., bytes]
