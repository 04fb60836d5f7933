"""Every error that this library raises; each message says what, where and the way out."""

from __future__ import annotations


class SameSessionError(Exception):
    """Root of the family, for ``except`` clauses."""


class ConfigError(SameSessionError, ValueError):
    """A setting is wrong; raised at start-up only, and names setting, value and remedy."""


class AnsweredError(SameSessionError):
    """Something cannot be done; adapters answer with ``status_code`` where nobody else does."""

    status_code = 500


class RetryableError(AnsweredError):
    """Something was not done, or nobody knows; adapters answer 503 with ``Retry-After``."""

    status_code = 503
    retry_after_s = 1


class StoreUnavailableError(RetryableError):
    """The authority did not answer within its deadline; the outcome of a commit is unknown."""


class NotSavedError(RetryableError):
    """The authority answered, and the change was not kept: the session went on under a new id."""


class TooManySessionsError(AnsweredError):
    """A login was refused: its principal has as many sessions as ``max_sessions`` allows.

    Nothing of the request's session is kept. To answer it yourself, call
    ``await sessions.commit(session)`` after ``session.login(…)`` and catch it there; otherwise
    adapters answer 409.
    """

    status_code = 409


class StoreCorruptError(SameSessionError):
    """A stored record cannot be read; it is counted and the request goes on as anonymous."""


class ValueNotStorableError(SameSessionError, TypeError):
    """A value is not plain data; the message names its key and its type."""


class SessionTooLargeError(SameSessionError, ValueError):
    """A session would grow past its limit; the message names the key that did it."""


class ResponseStartedError(SameSessionError, RuntimeError):
    """A change came after the response began, and nobody committed it."""
