"""The baseline: the same handlers on one dict of the process, no session at all."""

from starlette.applications import Starlette

from bench.apps.payload import payload
from bench.apps.shop import shop


def build(url: str) -> Starlette:
    """Return the shop without sessions; `url` is unused."""
    everybodys = payload(0)
    return shop(lambda request: everybodys)
