"""Type checked by `make check`, and run by nobody."""

from typing import Any

from litestar import Litestar, Request, get, post
from litestar.middleware.session.server_side import ServerSideSessionBackend
from litestar.security.session_auth import SessionAuth

from samesession import Sessions
from samesession.web.litestar import (
    SessionConfig,
    SharedStore,
    current_session,
    session_middleware,
)

sessions = Sessions.from_url("memory://")


@get("/")
async def index(request: Request[Any, Any, Any]) -> int:
    visits: int = request.session.get("visits", 0) + 1
    request.set_session({"visits": visits})
    return visits


@post("/login/{name:str}")
async def login(request: Request[Any, Any, Any], name: str) -> str | None:
    session = current_session(request)
    session.login(name)
    return session.principal


@post("/logout")
async def logout(request: Request[Any, Any, Any]) -> None:
    request.clear_session()


async def user_of(session: dict[str, Any], connection: Any) -> str | None:
    return session.get("user_id")


auth = SessionAuth[str, ServerSideSessionBackend](
    retrieve_user_handler=user_of, session_backend_config=SessionConfig(sessions)
)

app = Litestar(
    [index, login, logout],
    middleware=[session_middleware(sessions)],
    stores={"response_cache": SharedStore(sessions)},
    on_startup=[sessions.ready],
    on_shutdown=[sessions.close],
)
