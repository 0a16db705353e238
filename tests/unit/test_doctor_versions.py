"""`argus doctor` on packages whose versions do not go together."""

from __future__ import annotations

import importlib.metadata

import pytest

from serve.config.load import load_profile
from serve.runtime.checks import Finding, Level, _packages


def found(monkeypatch: pytest.MonkeyPatch, **versions: str) -> dict[str, Finding]:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.get(name.replace("-", "_"), real(name)))
    return {finding.check: finding for finding in _packages(load_profile("demo"))}


def test_what_is_installed_here_goes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {finding.level for finding in found(monkeypatch).values()} == {Level.OK}


def test_a_version_that_nobody_can_use_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = found(monkeypatch, ray="2.9.0", protobuf="7.0.0", torch="1.0.0")
    for name, needed in (("ray", "==2.60.0"), ("protobuf", "<7"), ("torch", "==2.1")):
        assert findings[name].level is Level.ERROR
        assert needed in findings[name].found and findings[name].fix == "run: make setup"
    assert findings["pillow"].level is Level.OK
