"""Type checked by `make check`, and run by nobody."""

from quart import Quart, session

from samesession import Sessions
from samesession.web.quart import current_session, init_app

app = Quart(__name__)
sessions = Sessions.from_url("memory://")
init_app(app, sessions)


@app.get("/")
async def index() -> str:
    session["visits"] = session.get("visits", 0) + 1
    return str(session["visits"])


@app.post("/login/<name>")
async def login(name: str) -> str:
    here = current_session()
    here.login(name)
    await sessions.commit(here)
    return str(here.principal)
