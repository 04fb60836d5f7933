"""Type checked by `make check`, and run by nobody."""

from flask import Flask, session

from samesession import Sessions
from samesession.adopt import FlaskCookie, FlaskSessionRedis
from samesession.web.flask import current_session, init_app

app = Flask(__name__)
sessions = Sessions.from_url(
    "memory://",
    adopt=[FlaskCookie("the old key"), FlaskSessionRedis("redis://127.0.0.1")],
)
init_app(app, sessions)


@app.get("/")
def index() -> str:
    session["visits"] = session.get("visits", 0) + 1
    session.permanent = True
    return str(session["visits"])


@app.post("/login/<name>")
def login(name: str) -> str:
    here = current_session()
    here.login(name)
    return str(here.principal)


@app.post("/sign-out-everywhere/<name>")
def sign_out(name: str) -> str:
    return str(sessions.blocking.end_all(name))
