"""What is visible in each version of TensorRT, as read from its sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

API = json.loads((Path(__file__).parents[1] / "data" / "tensorrt_api.json").read_text(encoding="utf-8"))
VERSIONS = ("10.3", "10.13", "10.16", "11")
FULL_VERSIONS = {"10.3": "10.3.0", "10.13": "10.13.3.9", "10.16": "10.16.2.10", "11": "11.1.0.106"}


class RuleBrokenError(AssertionError):
    """The code under test did what NVIDIA's documentation forbids and no library would report."""


def members(class_name: str, version: str) -> dict[str, Any]:
    """Return the members of a class and of its bases in a version of TensorRT, by name."""
    described = API["classes"][class_name]
    own = {name: member for name, member in described["members"].items() if version in member["versions"]}
    inherited: dict[str, Any] = {}
    for base in described["bases"]:
        inherited |= members(base, version)
    return inherited | own
