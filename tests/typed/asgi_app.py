"""Type checked by `make check`, and run by nobody."""

from samesession import Session, Sessions
from samesession.web.asgi import Receive, Scope, Send, SessionMiddleware


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    session: Session = scope["session"]
    session["visits"] = session.get("visits", 0) + 1
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": str(session["visits"]).encode()})


app = SessionMiddleware(application, Sessions.from_url("memory://"))
