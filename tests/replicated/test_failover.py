"""A failover under load forgets no login, no rotation and no end; and no page write unnoticed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from bench.failover_load import Result, lose_a_primary
from samesession.lab.replicated import Sentinelled

LAG_MS = 5
ROUNDS = 20 if os.environ.get("SAMESESSION_PROVE") == "1" else 1
MOST_ROUNDS = ROUNDS + 3
PATIENT = "&deadline=2s&wait=5s"


def test_a_failover_under_load(record_property: Callable[[str, object], None]) -> None:
    """Beside a plain session layer on redis-py; the page writes that both lose show the loss."""
    results: list[Result] = []
    for number in range(MOST_ROUNDS):
        with Sentinelled(lag_ms=LAG_MS) as engines:
            results += asyncio.run(lose_a_primary(engines, visitors=32, load_s=2, patience=PATIENT))
        exercised = any(result.sessions_hit for result in results)
        if number + 1 >= ROUNDS and exercised:
            break
    else:
        raise AssertionError(f"{MOST_ROUNDS} losses of a primary, and no write was on its way")
    for layer in dict.fromkeys(result.layer for result in results):
        own = [result for result in results if result.layer == layer]
        acknowledged = sum((result.acknowledged for result in own), start=type(own[0].lost)())
        looked_at = sum(result.looked_at["end"] for result in own)
        hit = sum(result.sessions_hit for result in own)
        noticed = sum(result.noticed for result in own)
        repaired = sum(result.repaired for result in own)
        record_property(
            "figure",
            f"E failover, {layer}: of {dict(acknowledged)} lost "
            f"{dict(sum((result.lost for result in own), start=type(own[0].lost)())) or 'no move'}"
            f"; {hit} sessions lost page writes, {noticed} noticed, {repaired} repaired; served "
            f"again after {max(result.recovery_s for result in own):.2f} s",
        )
        if not layer.startswith("samesession"):
            continue
        assert looked_at > 0
        for result in own:
            assert result.lost == {}
            assert result.weak == 0
            assert result.noticed == result.sessions_hit
            assert result.recovery_s < 20
        if "near" in layer:
            assert repaired == hit
