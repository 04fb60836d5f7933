"""The shop: a page for people, its basket, and a button that stops the server that answered.

One key of the session per product, so two tabs that add different things at once both succeed:
samesession merges changes to different keys.
"""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import BaseRoute, Route

from samesession import Sessions
from samesession.demo.answers import session_of
from samesession.demo.place import Place
from samesession.demo.probe import held_by_principal
from samesession.session import Session

PRODUCTS = {  # name, price in cents
    "tea": ("Green tea", 650),
    "honey": ("Honey", 720),
    "bread": ("Bread", 410),
    "pears": ("Pears", 360),
    "cheese": ("Cheese", 840),
    "candle": ("Candle", 900),
}
MOST_OF_ONE = 99

# The page loads nothing from anywhere and may not be framed: it has a button that kills a process.
PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
}


@dataclass(frozen=True, slots=True)
class Shop:
    """The shop on one server."""

    sessions: Sessions
    place: Place

    def routes(self) -> list[BaseRoute]:
        """Return the table of routes."""
        return [
            Route("/", self.page),
            Route("/shop", self.view),
            Route("/shop/basket/{product}", self.add, methods=["POST"]),
            Route("/shop/basket/{product}", self.remove, methods=["DELETE"]),
            Route("/api/about", self.about),
            Route("/api/stop", self.stop, methods=["POST"]),
        ]

    async def page(self, request: Request) -> HTMLResponse:
        """Serve the page; it touches no session, its script then asks for one."""
        return HTMLResponse(_page(), headers=PAGE_HEADERS)

    async def about(self, request: Request) -> JSONResponse:
        """Answer what does not change while this server runs."""
        place = self.place
        return JSONResponse(
            {
                "server": place.server,
                "strategy": place.strategy,
                "url": place.url,
                "affinity": place.affinity,
                "stoppable": place.stoppable,
                "products": [
                    {"id": product, "name": name, "cents": cents}
                    for product, (name, cents) in PRODUCTS.items()
                ],
            }
        )

    async def view(self, request: Request) -> JSONResponse:
        """Answer everything that the page shows."""
        session = session_of(request)
        return await self._view(session, known=not session.is_new)

    async def add(self, request: Request) -> JSONResponse:
        """Put one more of the product into the basket."""
        return await self._change(request, 1)

    async def remove(self, request: Request) -> JSONResponse:
        """Take one of the product out of the basket."""
        return await self._change(request, -1)

    async def stop(self, request: Request) -> JSONResponse:
        """Kill this server's processes as a crash would, after the answer.

        ``?server=s2`` makes every other server refuse with 409: behind a balancer without affinity
        the page cannot choose who gets its request, so it repeats it until s2 does.
        """
        # A header of our own: a form on another site cannot send it, and a script there may not.
        if request.headers.get("x-demo") != "1":
            raise HTTPException(403, "stopping a server needs the header X-Demo: 1")
        if not self.place.stoppable:
            raise HTTPException(
                403,
                "only servers of `samesession up` can be stopped: nobody would restart this one",
            )
        wanted = request.query_params.get("server", self.place.server)
        if wanted != self.place.server:
            raise HTTPException(409, f"this is {self.place.server}, not {wanted}")
        return JSONResponse({"server": self.place.server}, background=BackgroundTask(_crash))

    async def _change(self, request: Request, step: int) -> JSONResponse:
        product = request.path_params["product"]
        if product not in PRODUCTS:
            raise HTTPException(404, f"this shop sells {', '.join(PRODUCTS)}, not {product!r}")
        session = session_of(request)
        known = not session.is_new
        count = min(_count(session, product) + step, MOST_OF_ONE)
        if count > 0:
            session[_key(product)] = count
        else:
            session.pop(_key(product), None)
        await self.sessions.commit(session)
        return await self._view(session, known=known)

    async def _view(self, session: Session, *, known: bool) -> JSONResponse:
        return JSONResponse(
            {
                "server": self.place.server,
                "known": known,
                "principal": session.principal,
                "handle": session.handle,
                "version": session.version,
                "basket": {p: count for p in PRODUCTS if (count := _count(session, p))},
                "sessions": await held_by_principal(self.sessions, session),
            }
        )


def _key(product: str) -> str:
    return f"basket:{product}"


def _count(session: Session, product: str) -> int:
    count = session.get(_key(product))  # PUT /api/session can put anything there
    return count if type(count) is int and 0 < count <= MOST_OF_ONE else 0


@cache
def _page() -> str:
    return (files("samesession.demo") / "page.html").read_text(encoding="utf-8")


async def _crash() -> None:
    await asyncio.sleep(0.05)  # the balancer should have the answer before its connection breaks
    os.killpg(os.getpgid(0), signal.SIGKILL)
