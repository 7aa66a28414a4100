"""Serves the page at `/`: four fixed files, the same for everybody, which hold nobody's data.

What the page shows it asks of `/v1` with the token that it is given, so these files need none.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

router: APIRouter = APIRouter(include_in_schema=False)

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/dashboard/app.js": ("dashboard/app.js", "text/javascript; charset=utf-8"),
    "/dashboard/app.css": ("dashboard/app.css", "text/css; charset=utf-8"),
    "/dashboard/icon.svg": ("dashboard/icon.svg", "image/svg+xml"),
}
"""Path, and the built file with its type. `callers.PUBLIC` lets them pass without a token."""

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # A text that came from an agent can never become markup by accident.
        "require-trusted-types-for 'script'",
    )
)


class Built(NamedTuple):
    """One file of the page."""

    content: bytes
    media_type: str
    etag: str


@cache
def built(path: str) -> Built:
    """The file of a path in `FILES`."""
    name, media_type = FILES[path]
    content = (resources.files("nt_memory.apps.server.dashboard") / "built" / name).read_bytes()
    return Built(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')


async def send(request: Request) -> Response:
    """A file of the page; a browser asks again each time, and is told if it has it already."""
    file = built(request.scope["route"].path)
    headers = {
        "etag": file.etag,
        "cache-control": "no-cache",
        "content-security-policy": CONTENT_SECURITY_POLICY,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=()",
    }
    if request.headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


for _path in FILES:
    router.add_api_route(_path, send, methods=["GET", "HEAD"])
