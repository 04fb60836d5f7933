"""Type checked by `make check`, and run by nobody."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from samesession import Sessions
from samesession.web.asgi import SessionMiddleware, current_session


async def index(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session)


async def login(request: Request) -> JSONResponse:
    session = current_session(request)
    session.login(request.path_params["name"])
    return JSONResponse(session.principal)


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(current_session(websocket).principal)


app = Starlette(
    routes=[Route("/", index), Route("/login/{name}", login), WebSocketRoute("/ws", socket)]
)
app.add_middleware(SessionMiddleware, sessions=Sessions.from_url("memory://"))
