"""One session, whichever server answers."""

from samesession.lifecycle import Held
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.settings import Carrier, Cookie

__all__ = ["Carrier", "Cookie", "Held", "Session", "Sessions"]
