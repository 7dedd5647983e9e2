"""peregrine's options, performed by a program around the one that its environment names."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from starlette.staticfiles import StaticFiles


def _program() -> Any:
    module, _, name = os.environ["CONFORMANCE_PROGRAM"].partition(":")
    program = getattr(import_module(module), name)
    threads = os.environ.get("CONFORMANCE_WSGI_THREADS")
    if threads is not None:
        from a2wsgi import WSGIMiddleware  # noqa: PLC0415 - fetched for these checkers only

        return WSGIMiddleware(program, workers=int(threads))
    return program


def _with_files(program: Any, named: str) -> Any:
    """`--static-dir PREFIX=FOLDER`: what is not there is the program's to answer."""
    prefix, _, folder = named.partition("=")
    files = StaticFiles(directory=folder)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(f"{prefix}/"):
            found, _ = files.lookup_path(path.removeprefix(f"{prefix}/"))
            if found:
                inner = {**scope, "root_path": scope["root_path"] + prefix}
                await files(inner, receive, send)
                return
        await program(scope, receive, send)

    return served


app = _program()
if "CONFORMANCE_STATIC" in os.environ:
    app = _with_files(app, os.environ["CONFORMANCE_STATIC"])
