"""Calls and tokens a minute of each tenant."""

from __future__ import annotations

from collections.abc import Mapping

from serve.config.overload import Tenant
from serve.errors import RateLimited
from serve.resilience.rates import Rate, Rates


class TenantRates:
    """See the module's text.

    Args:
        tenants: by name; the entry `default` is of each other one.
    """

    def __init__(self, tenants: Mapping[str, Tenant], rates: Rates) -> None:
        self._tenants = tenants
        self._rates = rates

    async def take(self, tenant: str, tokens: int) -> None:
        """Counts a call, and the tokens that it may use.

        Raises:
            RateLimited: the tenant has used its calls or tokens up.
        """
        rules = self._rules(tenant)
        if rules is None:
            return
        rates = []
        if rules.requests_per_minute is not None:
            rates.append(Rate(f"tenant/{tenant}/calls", rules.requests_per_minute, 1))
        if rules.tokens_per_minute is not None:
            rates.append(Rate(f"tenant/{tenant}/tokens", rules.tokens_per_minute, max(1, tokens)))
        wait = await self._rates.take(*rates)
        if wait > 0:
            raise RateLimited(f"{tenant} has used up its calls or tokens of this minute.", retry_after_s=wait)

    async def settle(self, tenant: str, estimate: int, used: int) -> None:
        """Puts the tokens that were used in the place of those that `take` was told."""
        rules = self._rules(tenant)
        if rules is not None and rules.tokens_per_minute is not None:
            await self._rates.adjust(Rate(f"tenant/{tenant}/tokens", rules.tokens_per_minute, used - max(1, estimate)))

    def _rules(self, tenant: str) -> Tenant | None:
        return self._tenants.get(tenant) or self._tenants.get("default")
