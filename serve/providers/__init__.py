"""Models that others host, each behind the interface of base.Provider."""
