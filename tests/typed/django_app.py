"""Type checked by `make check`, and run by nobody."""

from samesession.web.django import SessionStore, get_sessions


def visits(store: SessionStore) -> int:
    store["visits"] = store.get("visits", 0) + 1
    store.save()
    return int(store["visits"])


def sessions_of(user_id: int) -> list[str]:
    return [held.handle for held in get_sessions().blocking.held_by(str(user_id))]
