"""The scenarios' sites and browsers serve here too."""

from scenarios.conftest import browsers, figure, redis_site, site, sites

__all__ = ["browsers", "figure", "redis_site", "site", "sites"]
