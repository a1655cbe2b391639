"""Puts a bundle onto a device without a network: checked, copied, given an engine, proved, and only then in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from export.bundle_file import copy_bundle_file
from export.engine import EngineOptions, build_engine, choose_variant, refuse_no_tensorrt
from export.installed import CURRENT, InstallFolder, held_install_folder, is_of_content
from export.self_test import self_test_apart
from runtime.backends.engine_files import version_numbers
from runtime.bundle import Bundle, read_bundle_file, refuse_unproved
from runtime.errors import AllnetError, BackendError, BundleError, OutputError, UsageError
from runtime.files import flush_folder, output_errors
from runtime.folders import folder_written_aside
from runtime.schema import CARD_NAME, ENGINE_PRECISIONS, ENGINES_FOLDER, GOLDEN_NAME, MANIFEST_NAME, SIGNATURE_NAME

PROVE_IT = "prove it with `python -m export verify`"  # nothing unproved is put into use
SelfTest = Callable[[Path, str, str], str]  # bundle, backend, precision -> what runs it


@dataclass(frozen=True)
class InstallOptions:
    """What a user decides about an installation."""

    public_key: Path | None  # of whoever signs the bundles; None: the bundle is taken unsigned
    engine: bool | None = None  # whether an engine is built; None: where TensorRT and a GPU are
    precision: str | None = None  # of the engine, or of the self-test without one; None: fp16, or the backend's best


@dataclass(frozen=True)
class _Source:
    """A checked bundle, with the bytes that were checked."""

    bundle: Bundle
    manifest: bytes
    signature: bytes | None


@dataclass(frozen=True)
class _Run:
    """How the device is to run the bundle."""

    backend: str
    precision: str

    @property
    def has_engine(self) -> bool:
        return self.backend == "tensorrt"


def install_bundle(
    source: Path,
    to: Path,
    options: InstallOptions,
    tell: Callable[[str], None] = print,
    self_test: SelfTest = self_test_apart,
) -> None:
    """Install a bundle into the folder `to`, so that `to`/current leads to it.

    The bundle in use is replaced only by one that has the right signature and hashes, and that passes its self-test on
    this device, both before the switch and through it; else it stays in use. What was in use before stays at
    `to`/previous. `tell` is given the lines for people.

    Raises UsageError where the key cannot be used, BundleError where the bundle is not what was signed, BackendError
    where it fails its self-test or the engine asked for cannot be built, OutputError where `to` cannot be used.
    """
    checked = _checked(source, options.public_key)
    run = _planned_run(checked.bundle, options, tell)
    with held_install_folder(to) as folder:
        if _is_in_use(folder, checked, run, self_test, tell):
            return
        tell(_comparison(folder.current, checked.bundle))
        place = folder.new_place(checked.bundle.content_sha256)
        with folder_written_aside(place, MANIFEST_NAME, ()) as aside:
            with output_errors(to):
                _copy(checked, aside)
            _refuse_changed_copy(checked, aside)
            if run.has_engine:
                build_engine(aside, EngineOptions(run.precision), tell)
            self_test(aside, run.backend, run.precision)
        _flush_folders(place)
        _switch(folder, place, run, self_test, tell)


def roll_back(to: Path, tell: Callable[[str], None] = print, self_test: SelfTest = self_test_apart) -> None:
    """Let `to`/current lead to the bundle that was in use before, and `to`/previous to the one that is now.

    Raises OutputError where there is none, BackendError where it fails its self-test; then nothing changes.
    """
    with output_errors(to):
        has_bundle = (to / CURRENT).is_symlink()
    if not has_bundle:
        raise OutputError(f"expected a folder with an installed bundle at {to}, found none; check the path")
    with held_install_folder(to) as folder:
        previous = folder.previous
        if previous is None:
            raise OutputError(f"expected a bundle that was in use before in {to}, found none; install one")
        run = _Run("auto", "auto")
        self_test(previous, run.backend, run.precision)
        tell(_comparison(folder.current, Bundle.open(previous)))
        _switch(folder, previous, run, self_test, tell)


def _checked(source: Path, public_key: Path | None) -> _Source:
    """Check the signature, where one is asked for, before anything else of the bundle is read; then every hash."""
    if public_key is None:
        bundle = Bundle.open(source)
        return _Source(bundle, read_bundle_file(bundle.folder / MANIFEST_NAME), None)
    from export.signature import signed_manifest

    manifest, signature = signed_manifest(source, public_key)
    return _Source(Bundle.open(source), manifest, signature)


def _planned_run(bundle: Bundle, options: InstallOptions, tell: Callable[[str], None]) -> _Run:
    """Decide whether an engine is built; raise BackendError where one is asked for and cannot be."""
    takes_engine = options.precision in (None, *ENGINE_PRECISIONS)
    if options.engine and not takes_engine:
        raise UsageError(
            f"expected {', '.join(ENGINE_PRECISIONS)} for an engine, received {options.precision}; leave --engine out"
        )
    if options.engine is not False and takes_engine:
        try:
            refuse_no_tensorrt()
        except BackendError as error:
            if options.engine:
                raise
            tell(f"No engine is built: {error}")
        else:
            variant = choose_variant(bundle, options.precision)
            refuse_unproved(bundle, variant, PROVE_IT)
            return _Run("tensorrt", variant.precision)
    any_proved = min(bundle.manifest.variants, key=lambda variant: not variant.proof.passed)  # if there is one
    variant = bundle.variant(options.precision) if options.precision else any_proved
    refuse_unproved(bundle, variant, PROVE_IT)  # here: the self-test would name the copy that it is made on
    return _Run("auto", options.precision or "auto")


def _is_in_use(
    folder: InstallFolder, source: _Source, run: _Run, self_test: SelfTest, tell: Callable[[str], None]
) -> bool:
    """Say whether the bundle in use is this one and runs as it is to: then there is nothing to install."""
    current = folder.current
    if current is None or not is_of_content(current, source.bundle.content_sha256):
        return False
    try:
        description = self_test(current, run.backend, run.precision)
        is_same = Bundle.open(current).content_sha256 == source.bundle.content_sha256
    except AllnetError as error:
        tell(f"{_name(source.bundle)} is installed already and does not run as it is to: {error}")
        return False
    if not is_same:
        return False
    tell(f"{_name(source.bundle)} is installed already at {folder.path / CURRENT}, nothing changed: {description}")
    return True


def _copy(source: _Source, folder: Path) -> None:
    """Copy what the manifest covers, and nothing else: no engines, which are built here, and no unknown files."""
    (folder / MANIFEST_NAME).write_bytes(source.manifest)
    if source.signature is not None:
        (folder / SIGNATURE_NAME).write_bytes(source.signature)
    (folder / CARD_NAME).write_bytes(source.bundle.card)
    for name in (*(variant.file for variant in source.bundle.manifest.variants), GOLDEN_NAME):
        copy_bundle_file(source.bundle.folder / name, folder / name)


def _refuse_changed_copy(source: _Source, folder: Path) -> None:
    try:
        Bundle.open(folder)
    except BundleError as error:
        raise BundleError(
            f"expected {source.bundle.folder} to stay as it is while it is copied, found its copy to differ ({error})"
        ) from error


def _flush_folders(bundle: Path) -> None:
    with output_errors(bundle):
        flush_folder(bundle)
        if (bundle / ENGINES_FOLDER).is_dir():
            flush_folder(bundle / ENGINES_FOLDER)


def _switch(folder: InstallFolder, bundle: Path, run: _Run, self_test: SelfTest, tell: Callable[[str], None]) -> None:
    """Put a proved bundle into use, and prove it once more as services will open it."""
    try:
        with folder.switched(bundle) as current:
            description = self_test(current, run.backend, run.precision)
    except BackendError as error:
        kept = "the bundle that was in use before is in use again" if folder.current else "no bundle is in use"
        raise BackendError(f"{error}; {kept}") from error
    tell(f"{current} is in use: {description}")
    tell("Services that run keep the bundle that they opened: start them again.")


def _comparison(current: Path | None, new: Bundle) -> str:
    """Say what is going to replace what, and whether an older version made it."""
    if current is None:
        return f"{_name(new)} is the first bundle here"
    try:
        old = Bundle.open(current)
    except BundleError as error:
        return f"{_name(new)} replaces a damaged bundle ({error})"
    versions = [bundle.manifest.training.config.code_version for bundle in (old, new)]
    remark = ""
    if version_numbers(versions[1]) < version_numbers(versions[0]):
        remark = f": a downgrade from version {versions[0]} of this toolkit to {versions[1]}"
    return f"{_name(new)} replaces {_name(old)}{remark}"


def _name(bundle: Bundle) -> str:
    return f"{bundle.manifest.training.config.options.model} {bundle.content_sha256[:12]}"
