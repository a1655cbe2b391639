"""Classifies cells with a bundle: numpy, Pillow and one inference library, no training library."""

import os

# Before ONNX Runtime is imported: from 1.32 on it numbers the machine and reports each process to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
