"""One session, whichever server answers."""

from samesession.lifecycle import Held
from samesession.record import Reason
from samesession.session import Session
from samesession.sessions import Sessions
from samesession.settings import Carrier, Cookie
from samesession.typed import migrates

__all__ = ["Carrier", "Cookie", "Held", "Reason", "Session", "Sessions", "migrates"]
