"""Django configured, once a process, for its tests; they override what they need."""

from __future__ import annotations

import django
from django.conf import settings

settings.configure(
    ROOT_URLCONF="frameworks.test_django",
    SECRET_KEY="a secret key of Django's, 50 characters or more, as its startproject makes",
    ALLOWED_HOSTS=["*"],
    USE_TZ=True,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "samesession.web.django.Config",
    ],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": "file:sessions?mode=memory&cache=shared",
        }
    },
    LOGOUT_REDIRECT_URL="/me/",
    SESSION_ENGINE="samesession.web.django",
    SAMESESSION={"url": "memory://"},
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
)
django.setup()
