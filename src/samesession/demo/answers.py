"""JSON in and out: what both halves of the demo share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import cast

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response

from samesession.session import Session

BODY_BYTES = 1 << 20  # far above the largest session (64 KiB), far below what would hurt


def session_of(connection: HTTPConnection) -> Session:
    """Return the session that the middleware opened; Starlette's own type says only dict."""
    return cast("Session", connection.session)


async def json_body(request: Request) -> object:
    """Return the body's JSON value.

    Raises:
        HTTPException: 400 when it is not JSON that can be written as JSON again (``1e999`` and lone
            surrogates cannot), 413 when it is longer than ``BODY_BYTES``.
    """
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES:
                raise HTTPException(413, f"the body has more than {BODY_BYTES} bytes")
        value: object = json.loads(bytes(body))
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is not a JSON value: {error}") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client left before its body had arrived") from None
    return value


def plain(value: object) -> object:
    """Return the value with whatever JSON does not know (dates, sets, bytes, NaN) as text or list.

    A session may hold such values, or a damaged record may decode into them; an answer that shows
    the session must not fail because of that.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


async def refusal(server: str, request: Request, error: Exception) -> Response:
    """Answer a wrong request with a sentence that says what was wrong."""
    status, headers, sentence = 400, None, str(error)
    if isinstance(error, HTTPException):
        status, headers, sentence = error.status_code, error.headers, error.detail
    return JSONResponse({"server": server, "error": sentence}, status, headers)
