# ruff: noqa: I001  (Django is configured before it is imported)
"""Django's own engines, switched while they ran: what they signed moves in, pickles do not."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import django
import pytest
import redis

import frameworks.django_site  # noqa: F401  (first: it configures Django)
from django.contrib.auth import login
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session as Row
from django.core import management
from django.db import connection
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path

from samesession.errors import ConfigError
from samesession.lab.engines import Engine
from samesession.web.django import SessionStore, get_sessions

BACKENDS = "django.contrib.sessions.backends"


def put(request: HttpRequest) -> HttpResponse:
    request.session["basket"] = ["tea"]
    login(request, User.objects.get(username="ann"))
    return HttpResponse()


def change(request: HttpRequest, key: str) -> JsonResponse:
    request.session[key] = 1
    return JsonResponse(dict(request.session.items()))


def read(request: HttpRequest) -> JsonResponse:
    user = getattr(request, "user", None)
    return JsonResponse({"user": str(user), "data": dict(request.session.items())})


async def aread(request: HttpRequest) -> JsonResponse:
    return JsonResponse(dict(await request.session.aitems()))


def beside_a_login(request: HttpRequest) -> JsonResponse:
    """Read, while another request of the same browser rotates the session, as a login does."""
    data = dict(request.session.items())
    assert with_cookie(request.COOKIES["sessionid"]).get("/rotate").cookies["sessionid"].value
    return JsonResponse(data)


def rotate(request: HttpRequest) -> HttpResponse:
    request.session.cycle_key()
    return HttpResponse()


def sign_out(request: HttpRequest) -> HttpResponse:
    request.session.flush()
    return HttpResponse()


urlpatterns = [
    path("put", put),
    path("change/<key>", change),
    path("read", read),
    path("aread", aread),
    path("beside_a_login", beside_a_login),
    path("rotate", rotate),
    path("sign_out", sign_out),
]


class Json:
    """A serializer that somebody gave to Django's cache."""

    def dumps(self, value: Any) -> bytes:
        return json.dumps(value).encode()

    def loads(self, data: bytes) -> Any:
        return json.loads(data)


@pytest.fixture(autouse=True, scope="module")
def urls() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        management.call_command("migrate", verbosity=0)
        User.objects.filter(username="ann").delete()
        User.objects.create_user("ann", password="secret")
        yield


def visitor(engine: str, **more: Any) -> str:
    """The cookie of somebody who signed in when the site ran on that engine."""
    with override_settings(SESSION_ENGINE=f"{BACKENDS}.{engine}", **more):
        client = Client()
        client.get("/put")
        return str(client.cookies["sessionid"].value)


@pytest.fixture
def switched(request: pytest.FixtureRequest, engine: Engine) -> Iterator[str]:
    name = getattr(request, "param", "db")
    ours = {"url": f"{engine.url}?prefix=django-adopt&deadline=5s", "adopt": [f"{BACKENDS}.{name}"]}
    with override_settings(SESSION_ENGINE="samesession.web.django", SAMESESSION=ours):
        get_sessions()
        yield name
        get_sessions().blocking.end_all(ann())


def ann() -> str:
    return str(User.objects.get(username="ann").pk)


def with_cookie(value: str) -> Client:
    client = Client()
    client.cookies["sessionid"] = value
    return client


@pytest.mark.parametrize("switched", ["db", "cached_db", "signed_cookies"], indirect=True)
def test_the_session_moves_in_signed_in(switched: str) -> None:
    old = visitor(switched)
    rows = list(Row.objects.values_list("session_key", "session_data"))
    client = with_cookie(old)
    answer = client.get("/read", headers={"user-agent": "A browser"})
    assert answer.json()["user"] == "ann"
    assert answer.json()["data"]["basket"] == ["tea"]
    new = answer.cookies["sessionid"].value
    assert new != old
    (held,) = get_sessions().blocking.held_by(ann())
    assert held.user_agent == "A browser"
    again = client.get("/read")
    assert (again.json(), again.cookies) == (answer.json(), {})
    assert list(Row.objects.values_list("session_key", "session_data")) == rows, "only read"


def test_parallel_first_requests_meet_in_one_session(switched: str) -> None:
    old = visitor(switched)

    def visit(number: int) -> Client:
        client = with_cookie(old)
        assert client.get(f"/change/k{number}").status_code == 200
        if connection.connection is not None:
            connection.connection.close()  # Django keeps what is in memory open
        return client

    with ThreadPoolExecutor(6) as pool:
        clients = list(pool.map(visit, range(6)))
    for client in clients:
        data = client.get("/read").json()["data"]
        assert data.keys() >= {"basket", *(f"k{n}" for n in range(6))}
    assert len(get_sessions().blocking.held_by(ann())) == 1


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django 4.2 has no asynchronous session")
@pytest.mark.anyio
async def test_async_views_find_it_too(switched: str) -> None:
    from asgiref.sync import sync_to_async

    client = AsyncClient()
    client.cookies["sessionid"] = await sync_to_async(visitor)(switched)
    answer = await client.get("/aread")
    assert answer.json()["basket"] == ["tea"]
    assert answer.cookies["sessionid"].value


def test_a_late_answer_does_not_replace_the_cookie_of_a_login(switched: str) -> None:
    slow = with_cookie(visitor(switched))
    slow_answer = slow.get("/beside_a_login")
    assert slow_answer.json()["basket"] == ["tea"]
    assert not slow_answer.cookies


def test_logged_out_it_does_not_come_back(switched: str, engine: Engine) -> None:
    old = visitor(switched)
    client = with_cookie(old)
    client.get("/read")
    client.get("/sign_out")
    with redis.Redis.from_url(engine.url) as marks:  # as 30 s later, when they are gone
        for key in marks.scan_iter("django-adopt:s:*"):
            if marks.hexists(key, "e"):
                marks.delete(key)
    assert with_cookie(old).get("/read").json() == {"user": "AnonymousUser", "data": {}}


def test_what_is_over_or_forged_or_pickled_is_a_stranger(switched: str, tmp_path: Path) -> None:
    from django.core import signing

    class Pickles:
        def dumps(self, value: Any) -> bytes:
            return pickle.dumps(value)

    class Poison:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "executed",)

    nobody = {"user": "AnonymousUser", "data": {}}
    old = visitor(switched)
    row = Row.objects.get(session_key=old)
    whole = row.session_data
    salt = "django.contrib.sessions.SessionStore"
    pickled = signing.dumps({"a": Poison()}, salt=salt, serializer=Pickles, compress=True)
    for data, count in ((whole[:-2], "not_adopted"), (pickled, "pickled")):
        Row.objects.filter(session_key=old).update(session_data=data)
        assert with_cookie(old).get("/read").json() == nobody
        assert get_sessions().counts[count] == 1
    assert not (tmp_path / "executed").exists()
    Row.objects.filter(session_key=old).update(session_data=whole, expire_date="2020-01-01 00:00Z")
    assert with_cookie(old).get("/read").json() == nobody


def test_a_database_that_does_not_answer_is_503(switched: str) -> None:
    old = visitor(switched)
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_session RENAME TO away")
        try:
            answer = with_cookie(old).get("/change/a")
        finally:
            cursor.execute("ALTER TABLE away RENAME TO django_session")
    assert (answer.status_code, answer.cookies) == (503, {})
    assert with_cookie(old).get("/change/a").json()["basket"] == ["tea"]


@pytest.fixture(params=["pickles", "json"])
def cache(request: pytest.FixtureRequest, engine: Engine) -> dict[str, Any]:
    options = {} if request.param == "pickles" else {"serializer": f"{__name__}.Json"}
    backend = "django.core.cache.backends.redis.RedisCache"
    return {"default": {"BACKEND": backend, "LOCATION": engine.url, "OPTIONS": options}}


def test_the_caches_pickles_are_refused_and_its_json_is_read(
    cache: dict[str, Any], engine: Engine
) -> None:
    pickles = not cache["default"]["OPTIONS"]
    with override_settings(CACHES=cache):
        old = visitor("cache")
        ours = {"url": f"{engine.url}?prefix=django-cache", "adopt": [f"{BACKENDS}.cache"]}
        with override_settings(SESSION_ENGINE="samesession.web.django", SAMESESSION=ours):
            seen = with_cookie(old).get("/read").json()
            assert get_sessions().counts["pickled"] == (1 if pickles else 0)
            assert seen["user"] == ("AnonymousUser" if pickles else "ann")


@pytest.mark.parametrize(
    ("adopt", "says"),
    [
        (f"{BACKENDS}.db", "is no list"),
        (["no.such.engine"], "is no session engine"),
        ([f"{BACKENDS}.file"], "cannot be read from"),
        ([f"{BACKENDS}.cache"], "keeps pickles"),
    ],
)
def test_what_cannot_be_adopted_is_said_at_the_start(adopt: Any, says: str) -> None:
    with (
        override_settings(SAMESESSION={"url": "memory://", "adopt": adopt}),
        pytest.raises(ConfigError, match=says),
    ):
        get_sessions()


@pytest.mark.parametrize("carrier", ["header", "both"])
def test_the_token_by_header(carrier: str) -> None:
    ours = {"url": "memory://", "carrier": carrier}
    with override_settings(SESSION_ENGINE="samesession.web.django", SAMESESSION=ours):
        client = Client()
        answer = client.get("/change/a", headers={"session-token": ""})
        token = answer.headers["Session-Token"]
        assert not answer.cookies
        varies = "Session-Token" if carrier == "header" else "Cookie, Session-Token"
        assert (answer.headers["Vary"], answer.headers["Cache-Control"]) == (varies, "no-store")
        assert client.get("/read", headers={"session-token": token}).json()["data"] == {"a": 1}
        client.cookies["sessionid"] = token
        by_cookie = {} if carrier == "header" else {"a": 1}
        assert client.get("/read").json()["data"] == by_cookie
        gone = client.get("/sign_out", headers={"session-token": token})
        assert (gone.headers["Session-Token"], gone.cookies) == ("", {})
        assert not SessionStore().exists(token)
