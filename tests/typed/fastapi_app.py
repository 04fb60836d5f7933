"""Type checked by `make check`, and run by nobody."""

from fastapi import FastAPI

from samesession import Sessions
from samesession.web.asgi import SessionMiddleware
from samesession.web.fastapi import SessionDep

sessions = Sessions.from_url("memory://")
app = FastAPI()
app.add_middleware(SessionMiddleware, sessions=sessions)


@app.post("/login/{name}")
async def login(session: SessionDep, name: str) -> str | None:
    session.login(name)
    return session.principal


@app.get("/me")
async def me(session: SessionDep) -> list[str]:
    held = await sessions.held_by(session.principal or "")
    return [one.handle for one in held]
