"""Django, with its own middleware; `app` for WSGI, `asgi` for ASGI."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path, re_path

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ["SAMESESSION_KEYS"],
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    SESSION_ENGINE="samesession.web.django",
    SESSION_COOKIE_NAME="session",
    SAMESESSION={
        "url": os.environ["SAMESESSION_URL"],
        "keys": [os.environ["SAMESESSION_KEYS"]],
        "idle": timedelta(seconds=float(os.environ.get("SAMESESSION_IDLE", "1800s")[:-1])),
        "lifetime": timedelta(seconds=float(os.environ.get("SAMESESSION_LIFETIME", "43200s")[:-1])),
    },
    DATA_UPLOAD_MAX_MEMORY_SIZE=10_000_000,
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "root": {"handlers": ["console"], "level": "WARNING"},
    },
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402

from frameworks import probe as table  # noqa: E402
from samesession._bridge import ready  # noqa: E402
from samesession.web.django import SessionStore, get_sessions  # noqa: E402


async def _save(session: SessionStore) -> None:
    session.save()


async def _asave(session: SessionStore) -> None:
    await session.asave()


def _replied(reply: table.Reply) -> HttpResponse:
    return HttpResponse(reply.body, status=reply.status, headers=reply.headers)


# -- sync views ------------------------------------------------------------------------------------

sync = table.on_threads(get_sessions())
sync.commit = _save


def everything(request: HttpRequest) -> HttpResponse:
    async def opened() -> Any:
        return request.session

    assert request.method
    query, body = request.GET.dict(), request.body
    return _replied(ready(sync.answer(request.method, request.path, query, body, opened)))


def stream(request: HttpRequest, how: str) -> StreamingHttpResponse:
    request.session["streamed"] = how
    return StreamingHttpResponse(table.stepped(sync.pieces(request.session, how)))


def background(request: HttpRequest) -> HttpResponse:
    request.session["early"] = 1
    response = HttpResponse("{}")
    work = sync.afterwards(request.session)
    response._resource_closers.append(lambda: ready(work))
    return response


# -- async views, whose session is reached by its a… methods ---------------------------------------

loops = table.on_loops(get_sessions())
loops.commit = _asave


async def aeverything(request: HttpRequest) -> HttpResponse:
    async def opened() -> Any:
        await request.session._aget_session()
        return request.session

    assert request.method
    query, body = request.GET.dict(), request.body
    return _replied(await loops.answer(request.method, request.path, query, body, opened))


async def astream(request: HttpRequest, how: str) -> StreamingHttpResponse:
    session = await request.session._aget_session()  # Django 4.2 has no `aset` yet
    session["streamed"] = how

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in loops.pieces(request.session, how):
            yield piece

    return StreamingHttpResponse(pieces())


_views = (
    (astream, aeverything) if os.environ.get("DJANGO_VIEWS") == "async" else (stream, everything)
)
urlpatterns = [
    path("x/stream/<how>", _views[0]),
    path("x/background", background),
    re_path("", _views[1]),
]
app = get_wsgi_application()
asgi = get_asgi_application()
