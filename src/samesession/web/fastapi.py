"""FastAPI: ``session: SessionDep`` in a path operation or a websocket, typed.

Needs the ASGI middleware: ``app.add_middleware(SessionMiddleware, sessions=sessions)``.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from samesession.errors import ConfigError
from samesession.session import Session


async def current_session(connection: HTTPConnection) -> Session:
    """Return the session of a request or websocket.

    Raises:
        ConfigError: the middleware is missing.
    """
    session = connection.scope.get("session")
    if not isinstance(session, Session):
        raise ConfigError(
            "SessionDep found no session; write app.add_middleware(SessionMiddleware, "
            "sessions=sessions) with SessionMiddleware from samesession.web.asgi"
        )
    return session


SessionDep = Annotated[Session, Depends(current_session)]
"""The session as a dependency."""
