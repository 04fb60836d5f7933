"""Type checked by `make check`, and run by nobody."""

import falcon

from samesession import Sessions
from samesession.web.wsgi import SessionMiddleware, current_session


class Visits:
    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        session = current_session(req.env)
        session["visits"] = session.get("visits", 0) + 1
        resp.media = session["visits"]


application = falcon.App()
application.add_route("/", Visits())
app = SessionMiddleware(application, Sessions.from_url("memory://"))
