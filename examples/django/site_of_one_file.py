"""Django in one file: a page, a download and an upload. To serve a project of yours, name the
`application` of its `asgi.py`."""

import hashlib
import os
from collections.abc import AsyncIterator

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["localhost", "127.0.0.1", "[::1]"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.urandom(32).hex(),  # nothing here is signed for longer than a process lives
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)

_PIECE = bytes(range(256)) * 256
_PAGE = """<!doctype html>
<title>Django through a reload</title>
<h1>Process {{ pid }} made this page</h1>
<p>Download <a href="download/1000" download="1000MB">1000 MB</a>.</p>
<form action="upload" method="post" enctype="multipart/form-data">
  <input type="file" name="file"> <button>Upload</button>
</form>
"""


async def page(request: HttpRequest) -> HttpResponse:
    template = engines["django"].from_string(_PAGE)
    return HttpResponse(template.render({"pid": os.getpid()}, request))


async def download(_: HttpRequest, megabytes: int) -> StreamingHttpResponse:
    """So many MB of the bytes 0 to 255, over and over."""
    size = megabytes * 1_000_000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, len(_PIECE)):
            yield _PIECE[: size - start]

    return StreamingHttpResponse(pieces(), headers={"content-length": str(size)})


async def upload(request: HttpRequest) -> HttpResponse:
    """The SHA-256 of what came. Django has put it into a file before this is called."""
    if "file" not in request.FILES:
        return HttpResponse("name a file\n", status=400)
    digest = hashlib.sha256()
    for piece in request.FILES["file"].chunks():
        digest.update(piece)
    return HttpResponse(f"{digest.hexdigest()}\n", content_type="text/plain")


urlpatterns = [
    path("", page),
    path("download/<int:megabytes>", download),
    path("upload", upload),
]
django.setup()
application = get_asgi_application()
