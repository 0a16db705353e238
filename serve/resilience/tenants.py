"""Requests and tokens a minute of each tenant: requests are counted at the edge, tokens with each call."""

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

    async def enter(self, tenant: str) -> None:
        """Counts a request, whatever calls it will make.

        Raises:
            RateLimited: the tenant has used its requests up.
        """
        rules = self._rules(tenant)
        if rules is not None and rules.requests_per_minute is not None:
            wait = await self._rates.take(Rate(f"tenant/{tenant}/requests", rules.requests_per_minute, 1))
            if wait > 0:
                raise RateLimited(
                    f"{tenant} has used up its {rules.requests_per_minute} requests a minute.", retry_after_s=wait
                )

    async def take(self, tenant: str, tokens: int) -> None:
        """Counts the tokens that a call may use.

        Raises:
            RateLimited: the tenant has used its tokens up.
        """
        rules = self._rules(tenant)
        if rules is not None and rules.tokens_per_minute is not None:
            rate = Rate(f"tenant/{tenant}/tokens", rules.tokens_per_minute, max(1, tokens))
            wait = await self._rates.take(rate)
            if wait > 0:
                raise RateLimited(
                    f"{tenant} has used up its {rules.tokens_per_minute} tokens a minute.", retry_after_s=wait
                )

    async def settle(self, tenant: str, estimate: int, used: int) -> None:
        """Puts the tokens that were used in the place of those that `take` was told."""
        rules = self._rules(tenant)
        if rules is not None and rules.tokens_per_minute is not None:
            await self._rates.adjust(Rate(f"tenant/{tenant}/tokens", rules.tokens_per_minute, used - max(1, estimate)))

    def _rules(self, tenant: str) -> Tenant | None:
        return self._tenants.get(tenant) or self._tenants.get("default")
