# ruff: noqa: I001  (Django is configured before it is imported)
"""Django's documentation about sessions, example by example, its `login`, and its settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import django
import pytest

import frameworks.django_site  # noqa: F401  (first: it configures Django)
from django.apps import apps
from django.conf import settings
from django.contrib import auth, messages
from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware
from django.core import management
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.test import Client, RequestFactory, override_settings
from django.test.utils import setup_test_environment, teardown_test_environment
from django.urls import include, path
from django.utils import timezone

from samesession import testing
from samesession.errors import ConfigError, ValueNotStorableError
from samesession.web._django_settings import check_settings
from samesession.web.django import SessionStore, get_sessions

# The views of https://docs.djangoproject.com/en/5.2/topics/http/sessions/


def post_comment(request: HttpRequest) -> HttpResponse:
    if request.session.get("has_commented", False):
        return HttpResponse("You've already commented.")
    request.session["has_commented"] = True
    return HttpResponse("Thanks for your comment!")


def set_cookie(request: HttpRequest) -> HttpResponse:
    request.session.set_test_cookie()
    return HttpResponse("set")


def test_cookie(request: HttpRequest) -> HttpResponse:
    if request.session.test_cookie_worked():
        request.session.delete_test_cookie()
        return HttpResponse("You're logged in.")
    return HttpResponse("Please enable cookies and try again.")


def nested(request: HttpRequest) -> HttpResponse:
    request.session.setdefault("foo", {})
    if "bar" in request.session["foo"]:
        return HttpResponse(request.session["foo"]["bar"])
    request.session["foo"]["bar"] = "baz"
    return HttpResponse("")


def nest(request: HttpRequest) -> HttpResponse:
    request.session["foo"]["bar"] = "deeper"  # Django's page says that this alone is not noticed
    return HttpResponse("")


def cart_page(request: HttpRequest) -> HttpResponse:
    """As shops do: the stored rows get their products, which nobody means to be stored."""
    if request.method == "POST":
        request.session["cart"] = {"7": {"price": "9.90"}}
        return HttpResponse()
    rows = request.session["cart"].copy()
    rows["7"]["product"] = User.objects.get(username="ann")
    if "marked" in request.GET:
        request.session.modified = True
    if "written" in request.GET:
        request.session["seen"] = True
    return HttpResponse(f"{rows['7']['product']} {rows['7']['price']}")


def keyed(request: HttpRequest) -> HttpResponse:
    if request.session.session_key is None:
        request.session["foo"] = {}
        request.session.create()
    return HttpResponse(request.session.session_key)


def expiring(request: HttpRequest) -> HttpResponse:
    request.session["kept"] = True
    request.session.set_expiry({"0": 0, "300": 300}[request.GET["seconds"]])
    return HttpResponse(str(request.session.get_expiry_age()))


def sign_in(request: HttpRequest) -> HttpResponse:
    request.session.setdefault("basket", []).append("tea")
    login(request, User.objects.get(username=request.GET["name"]))
    return HttpResponse("ok")


async def asign_in(request: HttpRequest) -> HttpResponse:
    user = await User.objects.aget(username=request.GET["name"])
    await auth.alogin(request, user)
    return HttpResponse("ok")


def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("ok")


def me(request: HttpRequest) -> HttpResponse:
    basket = request.session.get("basket", [])
    return HttpResponse(f"{request.user.username} {basket}")


def message(request: HttpRequest) -> HttpResponse:
    messages.info(request, "saved")
    return HttpResponse("ok")


def old_style_login(request: HttpRequest) -> HttpResponse:
    request.session["member_id"] = 7
    return HttpResponse("You're logged in.")


def old_style_logout(request: HttpRequest) -> HttpResponse:
    with contextlib.suppress(KeyError):
        del request.session["member_id"]
    return HttpResponse("You're logged out.")


def ages(request: HttpRequest) -> JsonResponse:
    session = request.session
    if "until" in request.GET:
        session.set_expiry(timezone.now() + timedelta(days=3, minutes=1))
    elif "default" in request.GET:
        session.set_expiry(None)
    days = (session.get_expiry_date() - timezone.now()).days
    closes = session.get_expire_at_browser_close()
    return JsonResponse([session.get_expiry_age() // 86400, days, closes], safe=False)


def shown(request: HttpRequest) -> HttpResponse:
    return HttpResponse(" ".join(str(one) for one in messages.get_messages(request)))


urlpatterns = [
    path(f"{view.__name__}/", view)
    for view in (
        *(post_comment, set_cookie, test_cookie, nested, nest, keyed, expiring, cart_page),
        *(sign_in, asign_in, sign_out, me, message, shown),
        *(old_style_login, old_style_logout, ages),
    )
]
urlpatterns.append(path("accounts/", include("django.contrib.auth.urls")))
test_cookie.__test__ = False  # type: ignore[attr-defined]  (a view, not a test)


since_5_1 = pytest.mark.skipif(
    django.VERSION < (5, 1), reason="Django 4.2 has no asynchronous session"
)


@pytest.fixture(scope="module", autouse=True)
def database() -> Iterator[None]:
    setup_test_environment()
    management.call_command("migrate", verbosity=0, run_syncdb=True)
    for name in ("ann", "bob"):
        User.objects.filter(username=name).delete()
        User.objects.create_user(name, password="secret")
    yield
    teardown_test_environment()


@pytest.fixture
def client() -> Client:
    return Client()


def test_the_page_about_sessions(client: Client) -> None:
    assert client.get("/post_comment/").content == b"Thanks for your comment!"
    assert client.get("/post_comment/").content == b"You've already commented."
    assert client.get("/test_cookie/").content.startswith(b"Please enable")
    client.get("/set_cookie/")
    assert client.get("/test_cookie/").content == b"You're logged in."
    client.get("/nested/")
    client.get("/nest/")
    assert client.get("/nested/").content == b"deeper"


def test_sessions_outside_of_views() -> None:
    store = SessionStore()
    store["last_login"] = 1376587691
    store.create()
    again = SessionStore(session_key=store.session_key)
    assert again["last_login"] == 1376587691
    assert store.exists(store.session_key)
    management.call_command("clearsessions")
    assert store.exists(store.session_key)


def test_objects_in_the_rows_of_a_stored_cart_are_shown_and_not_kept(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    client.post("/cart_page/")
    cookie = client.cookies["sessionid"].value
    assert client.get("/cart_page/").content == b"ann 9.90"
    assert "session['cart'] holds a User" in caplog.text
    assert client.cookies["sessionid"].value == cookie
    assert client.get("/cart_page/").content == b"ann 9.90"
    for meant in ("marked", "written"):  # Django's own would fail then, too
        with pytest.raises(ValueNotStorableError):
            client.get(f"/cart_page/?{meant}=1")


def test_a_session_key_names_its_session_until_it_is_cycled(client: Client) -> None:
    """Applications keep it beside a cart, django-allauth in a column of 40 characters."""
    key = client.get("/keyed/").content.decode()
    assert len(key) <= 40
    before = client.cookies["sessionid"].value
    client.get("/nest/")
    assert client.cookies["sessionid"].value != before, "another version"
    assert client.get("/keyed/").content.decode() == key
    assert SessionStore(key)["foo"]["bar"] == "deeper"
    browser = Client()
    browser.cookies["sessionid"] = key  # as functional tests sign a browser in
    assert browser.get("/nested/").content == b"deeper"
    client.get("/sign_in/?name=ann")
    assert client.get("/keyed/").content.decode() != key
    assert not SessionStore().exists(key)
    client.get("/sign_out/")


def test_an_expiry_of_its_own(client: Client) -> None:
    answer = client.get("/expiring/?seconds=0")
    assert answer.cookies["sessionid"]["max-age"] == "", "until the browser closes"
    answer = client.get("/expiring/?seconds=300")
    assert answer.cookies["sessionid"]["max-age"] == 300
    store = SessionStore(answer.cookies["sessionid"].value)
    store.set_expiry(-5)
    store.save()
    assert SessionStore(store.session_key).get("kept") is None
    store = SessionStore()
    store["kept"] = True
    store.set_expiry(timedelta(seconds=-1))
    store.save()
    assert "kept" not in SessionStore(store.session_key)


def test_login_rotates_and_logout_ends(client: Client) -> None:
    client.get("/post_comment/")
    before = client.cookies["sessionid"].value
    answer = client.get("/sign_in/?name=ann", headers={"user-agent": "A browser"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert SessionStore(before).get("has_commented") is None, "dead since the login"
    assert client.get("/me/").content == b"ann ['tea']"
    ann = str(User.objects.get(username="ann").pk)
    held = get_sessions().blocking.held_by(ann)
    assert [one.user_agent for one in held] == ["A browser"]
    during = client.cookies["sessionid"].value
    gone = client.get("/sign_out/")
    cookie = gone.cookies["sessionid"]
    assert (cookie.value, cookie["max-age"], cookie["httponly"]) == ("", 0, True)
    assert get_sessions().blocking.held_by(ann) == []
    client.cookies["sessionid"] = during
    assert client.get("/me/").content == b" []"


@pytest.mark.parametrize("way", ["sign_in", pytest.param("asign_in", marks=since_5_1)])
@pytest.mark.parametrize("before", [[], ["/keyed/"]], ids=["stranger", "visitor"])
def test_the_key_that_a_receiver_of_the_login_sees_is_the_one_that_stays(
    client: Client, before: list[str], way: str
) -> None:
    """Who allows one session a user keeps the key then, and ends the other one by it."""
    kept: dict[str, str] = {}
    ann = str(User.objects.get(username="ann").pk)
    get_sessions().blocking.end_all(ann)

    def one_session(sender: object, request: HttpRequest, user: User, **_more: object) -> None:
        if user.username in kept:
            SessionStore(kept[user.username]).delete()
        kept[user.username] = request.session.session_key

    other = Client()
    user_logged_in.connect(one_session)
    try:
        for browser in (other, client):
            for page in before:
                browser.get(page)
            browser.get(f"/{way}/?name=ann")
            assert browser.get("/me/").content.startswith(b"ann")
            assert browser.get("/keyed/").content.decode() == kept["ann"]
    finally:
        user_logged_in.disconnect(one_session)
    assert not other.get("/me/").content.startswith(b"ann")
    assert len(get_sessions().blocking.held_by(ann)) == 1


def test_login_over_another_user_starts_empty(client: Client) -> None:
    client.get("/sign_in/?name=ann")
    client.get("/sign_in/?name=bob")
    assert client.get("/me/").content == b"bob []", "the basket was ann's"


def test_the_test_clients_login(client: Client) -> None:
    assert client.login(username="ann", password="secret")
    assert client.get("/me/").content == b"ann []"
    session = client.session
    session["basket"] = ["coffee"]
    session.save()
    assert client.get("/me/").content == b"ann ['coffee']"
    client.logout()
    assert client.get("/me/").content == b" []"


def test_sign_in_of_our_own_testing_module(client: Client) -> None:
    testing.sign_in(client, get_sessions(), User.objects.get(username="ann"), basket=["tea"])
    assert client.get("/me/").content == b"ann ['tea']"


def test_signing_out_everywhere(client: Client) -> None:
    client.force_login(User.objects.get(username="ann"))
    get_sessions().blocking.end_all(str(User.objects.get(username="ann").pk))
    assert client.get("/me/").content == b" []"


@since_5_1
@pytest.mark.anyio
async def test_the_async_methods() -> None:
    store = SessionStore()
    await store.aset("a", 1)
    await store.asave()
    again = SessionStore(store.session_key)
    assert await again.aget("a") == 1
    await again.acycle_key()
    assert not await store.aexists(store.session_key)
    assert await again.aexists(again.session_key)
    await again.aflush()
    assert again.session_key is None
    other = SessionStore()
    await other.acreate()
    await other.adelete()
    with pytest.raises(UpdateError):
        await other.asave()
    await SessionStore.aclear_expired()


def test_a_login_that_the_application_marks_itself(client: Client) -> None:
    assert client.get("/old_style_logout/").content == b"You're logged out."
    client.get("/old_style_login/")
    assert client.session["member_id"] == 7
    client.get("/old_style_logout/")
    assert "member_id" not in client.session


def test_the_ages_that_the_page_names(client: Client) -> None:
    client.get("/post_comment/")
    assert client.get("/ages/").json() == [14, 13, False]
    assert client.get("/ages/?until").json() == [3, 3, False]
    assert client.get("/ages/").json() == [3, 3, False]
    assert client.get("/ages/?default").json() == [14, 13, False]
    with override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True):
        assert client.get("/ages/").json()[2]
        assert client.get("/old_style_login/").cookies["sessionid"]["max-age"] == ""


def test_the_views_of_the_authentication(client: Client) -> None:
    """A new password signs every other browser out, and rotates this one's session."""
    other = Client()
    for browser in (client, other):
        answer = browser.post("/accounts/login/", {"username": "ann", "password": "secret"})
        assert answer.status_code == 302
    before = client.cookies["sessionid"].value
    words = {"old_password": "secret", "new_password1": "tea-4-two", "new_password2": "tea-4-two"}
    assert client.post("/accounts/password_change/", words).status_code == 302
    assert client.cookies["sessionid"].value != before
    assert not SessionStore().exists(before)
    assert client.get("/me/").content.startswith(b"ann")
    assert not other.get("/me/").content.startswith(b"ann")
    client.post("/accounts/logout/")
    assert not client.get("/me/").content.startswith(b"ann")
    user = User.objects.get(username="ann")
    user.set_password("secret")
    user.save()


def test_a_new_session_has_a_key_once_it_is_cycled() -> None:
    store = SessionStore()
    store.cycle_key()
    assert store.exists(store.session_key)
    key = store.session_key
    store["a"] = 1
    store.save()
    assert (store.session_key, SessionStore(key)["a"]) == (key, 1)
    store.cycle_key()
    store.flush()
    assert store.session_key is None


def test_what_a_view_says_is_unmodified_is_not_saved() -> None:
    store = SessionStore()
    store["a"] = 1
    store.save()
    store["b"] = 2
    assert store.modified
    store.modified = False
    assert not store.modified
    store["c"] = 3
    assert store.modified


def test_messages_in_the_session(client: Client) -> None:
    client.get("/message/")
    assert client.get("/shown/").content == b"saved"
    assert client.get("/shown/").content == b""


def test_an_update_of_an_ended_session_is_djangos_error() -> None:
    store = SessionStore()
    store["a"] = 1
    store.save()
    SessionStore(store.session_key).delete()
    store["a"] = 2
    with pytest.raises(UpdateError):
        store.save()

    def view(request: HttpRequest) -> HttpResponse:
        assert request.session["a"] == 1
        SessionStore(request.session.session_key).delete()
        request.session["a"] = 2
        return HttpResponse()

    request = RequestFactory().get("/")
    other = SessionStore()
    other["a"] = 1
    other.save()
    request.COOKIES["sessionid"] = other.session_key
    with pytest.raises(SessionInterrupted):
        SessionMiddleware(view)(request)


def test_save_every_request_renews_the_cookie(client: Client) -> None:
    client.get("/post_comment/")
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        assert client.get("/me/").cookies["sessionid"].value


def test_what_django_knows_beside_its_own_words() -> None:
    store = SessionStore()
    assert (store.is_new, store.handle, store.version) == (True, None, 0)
    store.login("ann")
    store.save()
    assert (store.principal, store.version, store.is_new) == ("ann", 1, False)
    assert store.created_at == store.authenticated_at
    assert store.expires_at > store.created_at
    key = store.session_key
    store.rotate()
    assert not SessionStore().exists(key)
    assert store.exists(store.session_key)
    store.logout()
    assert store.session_key is None


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"SAMESESSION": None}, 'SAMESESSION = {"url": "redis://127.0.0.1:6379/0"}'),
        ({"SAMESESSION": {"url": "memory://", "idel": 1}}, "did you mean 'idle'"),
        ({"SAMESESSION": {"url": "memory://", "keys": ["short"]}}, "needs 32 or more"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY has 5 bytes; needs 32"),
        ({"SECRET_KEY_FALLBACKS": ["short"]}, "SECRET_KEY_FALLBACKS[0] has 5 bytes"),
        ({"SESSION_COOKIE_NAME": "__Host-sid"}, "needs SESSION_COOKIE_SECURE=True"),
        ({"SESSION_COOKIE_SAMESITE": "None"}, "needs SESSION_COOKIE_SECURE=True"),
        (
            {
                "SESSION_COOKIE_AGE": 60,
                "SAMESESSION": {"url": "memory://", "idle": timedelta(hours=1)},
            },
            "SESSION_COOKIE_AGE=60 contradicts",
        ),
    ],
)
def test_wrong_settings_fail_the_checks_and_the_start(given: dict[str, Any], says: str) -> None:
    with override_settings(**given):
        with pytest.raises(ConfigError) as said:
            get_sessions()
        assert says in str(said.value)
        with pytest.raises(management.base.SystemCheckError, match="E001"):
            management.call_command("check")
    management.call_command("check")


def test_a_list_of_middleware_without_sessions_or_with_two_is_refused() -> None:
    (ours,) = [name for name in settings.MIDDLEWARE if "sessions" in name]
    others = [name for name in settings.MIDDLEWARE if name != ours]
    for given, says in (
        (others, f"add '{ours}'"),
        ([ours, ours, *others], "keep one of the lines"),
    ):
        with override_settings(MIDDLEWARE=given):
            with pytest.raises(ConfigError) as said:
                apps.get_app_config("samesession").ready()
            assert says in str(said.value)
            with pytest.raises(management.base.SystemCheckError, match="E002"):
                management.call_command("check")
    apps.get_app_config("samesession").ready()


def test_who_counts_on_sliding_sessions_is_told_of_the_lifetime() -> None:
    with override_settings(SESSION_SAVE_EVERY_REQUEST=True):
        assert [said.id for said in check_settings()] == ["samesession.W002"]
        long = {"url": "memory://", "lifetime": timedelta(days=90)}
        with override_settings(SAMESESSION=long):
            assert check_settings() == []


def test_a_serializer_that_nobody_asks_is_told() -> None:
    with override_settings(SESSION_SERIALIZER="shop.serializers.Pickle"):
        (said,) = check_settings()
    assert (said.id, "remove that line" in said.msg) == ("samesession.W001", True)


def test_the_age_of_the_cookie_is_the_idle_time() -> None:
    with override_settings(SESSION_COOKIE_AGE=3600):
        limits = get_sessions().limits
        assert (limits.idle_ms, limits.lifetime_ms) == (3_600_000, 3_600_000)
    given = {"url": "memory://", "lifetime": timedelta(hours=12)}
    with override_settings(SAMESESSION=given):
        assert SessionStore().get_expiry_age() == 12 * 3600
        assert get_sessions().limits.idle_ms == 12 * 3_600_000


@since_5_1
def test_async_views_and_alogin(client: Client) -> None:
    client.get("/post_comment/")
    before = client.cookies["sessionid"].value
    client.get("/asign_in/?name=bob")
    assert client.get("/me/").content == b"bob []"
    assert SessionStore(before).get("has_commented") is None


@since_5_1
@pytest.mark.anyio
async def test_a_view_reads_past_every_copy() -> None:
    """`fresh` in a view, `afresh` in an asynchronous one: what another server has just written."""
    first = SessionStore()
    first["stock"] = 1
    await first.asave()
    here, there = SessionStore(first.session_key), SessionStore(first.session_key)
    assert await here.aget("stock") == 1
    here["mine"] = 1
    await there.aset("stock", 0)
    await there.asave()
    await here.afresh()
    assert (await here.aget("stock"), await here.aget("mine")) == (0, 1)
    await there.aset("stock", 5)
    await there.asave()
    here.fresh()
    assert (here["stock"], here["mine"]) == (5, 1)
