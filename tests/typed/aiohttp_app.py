"""Type checked by `make check`, and run by nobody."""

from aiohttp import web

from samesession import Sessions
from samesession.web.aiohttp import get_session, new_session, setup


async def index(request: web.Request) -> web.Response:
    session = await get_session(request)
    session["visits"] = session.get("visits", 0) + 1
    return web.Response(text=f"{session['visits']} {session.new} {session.principal}")


async def login(request: web.Request) -> web.Response:
    session = await new_session(request)
    session.login("ann")
    return web.Response(text="ok")


app = web.Application()
setup(app, Sessions.from_url("memory://"))
app.add_routes([web.get("/", index), web.post("/login", login)])
