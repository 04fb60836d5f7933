"""FastAPI: ``session: SessionDep`` in a path operation or a websocket, typed.

Needs the ASGI middleware: ``app.add_middleware(SessionMiddleware, sessions=sessions)``.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from samesession.session import Session
from samesession.web.asgi import current_session


async def session_of(connection: HTTPConnection) -> Session:
    """The session of a request or websocket.

    Raises:
        ConfigError: the middleware is missing.
    """
    return current_session(connection)


SessionDep = Annotated[Session, Depends(session_of)]
"""The session as a dependency."""
