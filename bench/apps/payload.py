"""What every contestant's session holds."""

from __future__ import annotations

from typing import Any


def payload(count: int) -> dict[str, Any]:
    """Return 8 keys, 575 bytes as JSON: the session of a customer (MEASURED section 2)."""
    return {
        "count": count,
        "user": "3f0c6a52-7a0e-4a7e-9c1c-8a9f6b1f2d10",
        "name": "Ann Example of Somewhere",
        "email": "ann.example@mail.example.org",
        "locale": "en_GB.UTF-8",
        "csrf": "Zt3p0m9Qy7w1kR5xV8uB2nC6sD4fG0hJaLeTiOoPqWrY",
        "basket": [
            {"article": "B-1042-XL", "amount": 2, "price": "19.90", "title": "Rain jacket, red"},
            {
                "article": "K-0007",
                "amount": 1,
                "price": "249.00",
                "title": "Kettle with thermometer",
            },
            {"article": "T-5110-S", "amount": 5, "price": "3.25", "title": "Tea towel, jute"},
        ],
        "visited": ["/", "/garden", "/kitchen/kettles", "/offers", "/account/orders"],
    }
