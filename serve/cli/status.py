def status() -> None:
    """S."""


def models() -> None:
    """M."""
