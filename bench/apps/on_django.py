"""The shop in Django: without sessions, with its cache engine on Redis, with samesession."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from bench.apps.payload import payload

SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
COMMON = "django.middleware.common.CommonMiddleware"  # of every new project; sets Content-Length

_everybodys = payload(0)


def plain(url: str) -> Any:
    """Return the shop on one dict of the process; `url` is unused."""
    return _site(MIDDLEWARE=[COMMON])


def peer(url: str) -> Any:
    """Return the shop with Django's cache engine over Django's Redis cache."""
    backend = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": url}
    engine = "django.contrib.sessions.backends.cache"
    return _site(MIDDLEWARE=[SESSIONS, COMMON], SESSION_ENGINE=engine, CACHES={"default": backend})


def ours(url: str) -> Any:
    """Return the shop with samesession."""
    engine = "samesession.web.django"
    return _site(MIDDLEWARE=[SESSIONS, COMMON], SESSION_ENGINE=engine, SAMESESSION={"url": url})


def _site(**different: Any) -> Any:
    settings.configure(
        SECRET_KEY="k" * 50, ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, **different
    )
    django.setup()
    return get_wsgi_application()


def _session(request: HttpRequest) -> Any:
    return getattr(request, "session", _everybodys)


def login(request: HttpRequest) -> HttpResponse:
    start = int(request.GET["start"])
    _session(request).update(payload(start))
    return HttpResponse(str(start))


def read(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(_session(request)["count"]))


def write(request: HttpRequest) -> HttpResponse:
    session = _session(request)
    session["count"] += 1
    return HttpResponse(str(session["count"]))


urlpatterns = [path("login", login), path("read", read), path("write", write)]
