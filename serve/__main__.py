"""`python -m serve` is `argus`."""

from serve.cli import main

main()
