"""FastAPI: a download as large as you like, and an upload that tells how far it has come."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, StreamingResponse

app = FastAPI()
_PIECE = bytes(range(256)) * 256


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))


@app.get("/download/{megabytes}")
async def download(megabytes: int) -> StreamingResponse:
    """So many MB of the bytes 0 to 255, over and over."""
    size = megabytes * 1_000_000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, len(_PIECE)):
            yield _PIECE[: size - start]

    return StreamingResponse(pieces(), headers={"content-length": str(size)})


@app.post("/upload")
async def upload(request: Request) -> StreamingResponse:
    """A line for each megabyte that has come, while the upload runs; at the end its SHA-256."""

    async def progress() -> AsyncIterator[str]:
        digest, received, told = hashlib.sha256(), 0, 0
        async for piece in request.stream():
            digest.update(piece)
            received += len(piece)
            while told < received // 1_000_000:
                told += 1
                yield f"{told} MB, process {os.getpid()}\n"
        yield f"sha256 {digest.hexdigest()}\n"

    return StreamingResponse(progress(), media_type="text/plain")
