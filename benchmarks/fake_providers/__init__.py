"""Local servers that speak the providers' published APIs, check requests as the providers do, and fail on command.

No provider can be reached from a test machine. These servers stand in for them, in tests and in the fault drill:

    async with FakeOpenAI(answer="a cat") as server:
        server.script = [Fault("429", retry_after=2), Fault("cut")]
        provider = ...  # base_url=server.base_url, key=KEY
"""

from benchmarks.fake_providers.anthropic import FakeAnthropic
from benchmarks.fake_providers.gemini import FakeGemini
from benchmarks.fake_providers.oip import FakeOip, FakeOipGrpc
from benchmarks.fake_providers.openai import FakeOpenAI
from benchmarks.fake_providers.server import KEY, FakeServer, Fault, Received, in_thread

__all__ = [
    "KEY",
    "FakeAnthropic",
    "FakeGemini",
    "FakeOip",
    "FakeOipGrpc",
    "FakeOpenAI",
    "FakeServer",
    "Fault",
    "Received",
    "in_thread",
]
