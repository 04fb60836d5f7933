"""Type checked by `make check`, and run by nobody."""

from quart import Quart, session

from samesession import Sessions
from samesession.web.quart import init_app

app = Quart(__name__)
sessions = Sessions.from_url("memory://")
init_app(app, sessions)


@app.get("/")
async def index() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])
