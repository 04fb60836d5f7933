"""Every error that this library raises; each message says what, where and the way out."""

from __future__ import annotations


class SameSessionError(Exception):
    """Root of the family, for ``except`` clauses."""


class ConfigError(SameSessionError, ValueError):
    """A setting is wrong; raised at start-up only, and names setting, value and remedy."""


class RetryableError(SameSessionError):
    """Something was not done, or nobody knows; adapters answer 503 with ``Retry-After``."""

    retry_after_s = 1


class StoreUnavailableError(RetryableError):
    """The authority did not answer within its deadline; the outcome of a commit is unknown."""


class NotSavedError(RetryableError):
    """The authority answered, and the change was not kept: the session went on under a new id."""


class StoreCorruptError(SameSessionError):
    """A stored record cannot be read; it is counted and the request goes on as anonymous."""


class ValueNotStorableError(SameSessionError, TypeError):
    """A value is not plain data; the message names its key and its type."""


class SessionTooLargeError(SameSessionError, ValueError):
    """A session would grow past its limit; the message names the key that did it."""


class ResponseStartedError(SameSessionError, RuntimeError):
    """A change came after the response began, and nobody committed it."""
