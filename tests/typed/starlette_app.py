"""Type checked by `make check`, and run by nobody."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from samesession import Sessions
from samesession.web.asgi import SessionMiddleware


async def index(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session)


app = Starlette(routes=[Route("/", index)])
app.add_middleware(SessionMiddleware, sessions=Sessions.from_url("memory://"))
