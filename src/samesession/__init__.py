"""One session, whichever server answers."""

from samesession.lifecycle import Held
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.settings import Cookie

__all__ = ["Cookie", "Held", "Session", "Sessions"]
