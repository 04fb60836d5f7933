"""Type checked by `make check`, and run by nobody."""

import falcon

from samesession import Session, Sessions
from samesession.web.wsgi import SessionMiddleware


class Visits:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        session: Session = req.env["samesession"]
        session["visits"] = session.get("visits", 0) + 1
        resp.media = session["visits"]


application = falcon.App()
application.add_route("/", Visits())
app = SessionMiddleware(application, Sessions.from_url("memory://"))
