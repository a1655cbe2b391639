"""The engines in a bundle's folder: where they stand, what their records say, and whether one may run here."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from runtime.backends.cuda_runtime import Gpu
from runtime.errors import BackendError, BundleError, reason_of
from runtime.schema import ENGINES_FOLDER, EngineRecord, engine_record_from_json

AMPERE = (8, 0)  # compute capability


@dataclass(frozen=True)
class Machine:
    """What an engine is tied to."""

    gpu: Gpu
    tensorrt: str  # the version


def engine_path(bundle: Path, gpu: str, precision: str) -> Path:
    """Return where the engine of that precision for the GPU called `gpu` stands in a bundle's folder."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return bundle / ENGINES_FOLDER / f"{slug}-{precision}.engine"


def built_engines(bundle: Path, precision: str) -> list[Path]:
    """Return the engines of that precision in a bundle's folder, whatever they were built for."""
    return sorted((bundle / ENGINES_FOLDER).glob(f"*-{precision}.engine"))


def record_path(file: Path) -> Path:
    """Return where the record of an engine's file stands."""
    return file.with_suffix(".json")


def read_record(file: Path) -> EngineRecord:
    """Read the record beside an engine; raise BackendError where there is none that can be read."""
    path = record_path(file)
    try:
        return engine_record_from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError) as error:
        raise BackendError(
            f"expected the engine's record {path}, found none that can be read ({reason_of(error)}); {build_hint(file)}"
        ) from error
    except BundleError as error:
        raise BackendError(str(error)) from error


def refuse_unfit(record: EngineRecord, file: Path, machine: Machine, onnx_sha256: str) -> None:
    """Raise BackendError unless an engine with this record may run here and comes from that ONNX file."""
    here = f"{machine.gpu.name} (compute capability {machine.gpu.compute_capability})"
    built_for = f"{record.gpu} (compute capability {record.compute_capability})"
    if not _fits_gpu(record, machine.gpu):
        raise BackendError(f"expected an engine for {here}, found {file.name} for {built_for}; {build_hint(file)}")
    if not _fits_version(record, machine.tensorrt):
        raise BackendError(
            f"expected an engine for TensorRT {machine.tensorrt}, found {file.name} built by {record.tensorrt}; "
            f"{build_hint(file)}"
        )
    if record.onnx_sha256 != onnx_sha256:
        raise BackendError(
            f"expected an engine of the ONNX file with the SHA-256 {onnx_sha256[:12]}…, found {file.name} of "
            f"{record.onnx_sha256[:12]}…: the bundle was exported again; {build_hint(file)}"
        )


def _fits_gpu(record: EngineRecord, gpu: Gpu) -> bool:
    if record.hardware_compatible == "ampere-plus":
        return version_numbers(gpu.compute_capability) >= AMPERE
    if record.hardware_compatible == "same-compute-capability":
        return record.compute_capability == gpu.compute_capability
    return (record.gpu, record.compute_capability) == (gpu.name, gpu.compute_capability)


def _fits_version(record: EngineRecord, version: str) -> bool:
    if not record.version_compatible:
        return record.tensorrt == version
    built, here = version_numbers(record.tensorrt), version_numbers(version)
    return built <= here and here[0] - built[0] <= 1  # NVIDIA promises newer ones, up to the next major version


def version_numbers(version: str) -> tuple[int, ...]:
    """Return a version's numbers, so that 10.13 comes after 10.3; what is not a number counts as 0."""
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def read_plan(path: Path, record: EngineRecord) -> bytes:
    """Read an engine's file; raise BackendError where it cannot be read or is not the one that its record is of."""
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise BackendError(f"expected {path} to be readable, found: {error.strerror}; {build_hint(path)}") from error
    found = hashlib.sha256(plan).hexdigest()
    if found != record.engine_sha256:
        raise BackendError(
            f"expected {path} to have the SHA-256 {record.engine_sha256[:12]}…, found {found[:12]}…: the file was "
            f"changed or damaged; {build_hint(path)}"
        )
    return plan


def build_hint(file: Path) -> str:
    """Say how an engine's file is built anew."""
    precision = file.stem.rsplit("-")[-1]
    return f"python -m export engine {file.parent.parent} --precision {precision} builds one on this device"
