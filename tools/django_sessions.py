"""Run Django's own tests of its sessions against ours: ``make django`` does it.

    python tools/django_sessions.py DJANGO_SOURCE_FOLDER

Exits with 1 if a test fails that is not among `DIFFERENT`.
"""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

import django
from django.conf import settings

DIFFERENT = {
    # Compared literally; ours repeats every flag, and so a browser cannot take the deletion for
    # another cookie's.
    "test_session_delete_on_end": "our deletion says HttpOnly, too",
    "test_session_delete_on_end_with_custom_domain_and_path": "our deletion says HttpOnly, too",
    "test_empty_session_saved": "looks into Django's table (tests/frameworks keeps the behaviour)",
}
"""Django's tests that ours may fail, and why."""


def main(source: str) -> int:
    """Run them and say what came out."""
    tests = str(Path(source, "tests").resolve())
    sys.path[:0] = [tests]
    settings.configure(
        SECRET_KEY="a secret key of Django's, 50 characters or more, as its startproject makes",
        ALLOWED_HOSTS=["*"],
        USE_TZ=True,
        INSTALLED_APPS=["django.contrib.sessions", "sessions_tests"],
        MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        SESSION_ENGINE="samesession.web.django",
        SAMESESSION={"url": "memory://"},
    )
    django.setup()
    from django.test import SimpleTestCase
    from django.test.runner import DiscoverRunner

    from samesession.web.django import SessionStore

    from sessions_tests import tests as theirs  # type: ignore[import-not-found]  # isort: skip

    class OurSessionTests(theirs.SessionTestsMixin, SimpleTestCase):  # type: ignore[misc]
        backend = SessionStore

    runner = DiscoverRunner(verbosity=0)
    databases = runner.setup_databases()
    suite = unittest.TestSuite(
        unittest.defaultTestLoader.loadTestsFromTestCase(case)
        for case in (
            OurSessionTests,
            theirs.SessionMiddlewareTests,
            getattr(theirs, "SessionBaseTests", None),  # since Django 5.1
        )
        if case is not None
    )
    result = unittest.TextTestRunner(stream=sys.stderr, verbosity=0).run(suite)
    runner.teardown_databases(databases)
    failed = {test.id().rpartition(".")[2] for test, _ in (*result.failures, *result.errors)}
    print(
        f"Django {django.get_version()}: {result.testsRun - len(failed)} of {result.testsRun} "
        "of its own session tests pass"
    )
    for name in sorted(failed):
        print(f"  {name}: {DIFFERENT.get(name, 'NOT EXPECTED')}")
    return 1 if failed - DIFFERENT.keys() else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
