"""Django's page on engines that extend another one, each in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

OLD_ENGINE = """
from django.contrib.sessions.backends.db import SessionStore as DBStore
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models


class CustomSession(AbstractBaseSession):
    account_id = models.IntegerField(null=True, db_index=True)

    class Meta:
        app_label = "shop"

    @classmethod
    def get_session_store_class(cls):
        return SessionStore


class SessionStore(DBStore):
    @classmethod
    def get_model_class(cls):
        return CustomSession
"""
OWN_ENGINE = """
from samesession.web.django import SessionStore as OurStore


class SessionStore(OurStore):
    def basket(self):
        return self.setdefault("basket", [])
"""
SITE = """
import django
from django.conf import settings

settings.configure(
    SECRET_KEY="a secret key of Django's, 50 characters or more, as its startproject makes",
    INSTALLED_APPS=["samesession.web.django.Config", "shop"],
    MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    ROOT_URLCONF="site_of_shop",
    ALLOWED_HOSTS=["*"],
    **GIVEN,
)
django.setup()
from django.core.management import call_command
from django.http import JsonResponse
from django.test import Client
from django.urls import path

call_command("migrate", run_syncdb=True, verbosity=0)


def index(request):
    request.session.setdefault("basket", []).append("tea")
    return JsonResponse([type(request.session).__module__, request.session["basket"]], safe=False)


urlpatterns = [path("", index)]
call_command("check")
"""


def run(folder: Path, site: str, **given: object) -> subprocess.CompletedProcess[str]:
    """A site's script in a project whose application is ``shop``."""
    shop = folder / "shop"
    shop.mkdir()
    (shop / "__init__.py").touch()
    (shop / "models.py").write_text("from shop.old_sessions import CustomSession\n")
    (shop / "old_sessions.py").write_text(OLD_ENGINE)
    (shop / "sessions.py").write_text(OWN_ENGINE)
    (folder / "site_of_shop.py").write_text(SITE.replace("GIVEN", repr(given)) + site)
    return subprocess.run(
        [sys.executable, "-c", "import site_of_shop"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_engine_with_a_model_of_its_own_moves_in(tmp_path: Path) -> None:
    """Its application, and not ``django.contrib.sessions``, is in INSTALLED_APPS."""
    said = run(
        tmp_path,
        """
from shop.old_sessions import SessionStore

old = SessionStore()
old["basket"] = ["milk"]
old.save()
client = Client()
client.cookies["sessionid"] = old.session_key
print(client.get("/").json())
""",
        SESSION_ENGINE="samesession.web.django",
        SAMESESSION={"url": "memory://", "adopt": ["shop.old_sessions"]},
    )
    assert "['samesession.web.django', ['milk', 'tea']]" in said.stdout, said.stderr


@pytest.mark.parametrize("key", [{}, {"keys": ["short"]}], ids=["right", "wrong"])
def test_an_engine_that_extends_ours_is_checked_at_the_start_like_ours(
    tmp_path: Path, key: dict[str, object]
) -> None:
    said = run(
        tmp_path,
        """
client = Client()
client.get("/")
print(client.get("/").json())
""",
        SESSION_ENGINE="shop.sessions",
        SAMESESSION={"url": "memory://", **key},
    )
    if key:
        assert "ConfigError" in said.stderr
        assert "django.setup()" in said.stderr, "and not at the first request"
    else:
        assert "['shop.sessions', ['tea', 'tea']]" in said.stdout, said.stderr
