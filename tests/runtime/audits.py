"""An audit such as the classifier gives, for rows that are made without one."""

from __future__ import annotations

from runtime.schema import Audit

AUDIT = Audit(
    sha256="ab" * 32,
    time="2026-01-02T03:04:05.678+00:00",
    threshold=0.5,
    bundle="cd" * 32,
    precision="fp32",
    backend="a fake",
    version="0",
)
