from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import export.reference
from export.reference import reference_file
from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.files import sha256_of_file
from runtime.schema import MANIFEST_NAME, to_json
from tests.tiny_bundle import manifest_of, write_tiny_bundle

RunAt = Callable[..., Path]


@pytest.fixture
def run_at(tmp_path: Path) -> RunAt:
    """Return a function that makes a run with a stand-in for its Keras file; its path inside the test's folder."""

    def make(place: str, content: bytes = b"weights") -> Path:
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "best.keras").write_bytes(content)
        return folder / "best.keras"

    return make


@pytest.fixture
def bundle(tmp_path: Path, run_at: RunAt) -> Callable[[str], Bundle]:
    """Return a function that opens the bundle of a run, at a/b/c/bundle, with what it holds of where the run lay."""
    folder = write_tiny_bundle(tmp_path / "a" / "b" / "c" / "bundle", ("fp32",))
    file = run_at("elsewhere")
    keras_sha256 = sha256_of_file(file)
    shutil.rmtree(file.parent)

    def make(run: str = "allnet") -> Bundle:
        manifest = manifest_of(folder)
        training = replace(manifest.training, run=run, keras_sha256=keras_sha256)
        (folder / MANIFEST_NAME).write_text(to_json(replace(manifest, training=training)), encoding="utf-8")
        return Bundle.open(folder)

    return make


@pytest.mark.parametrize("place", ["a/b/c/allnet", "a/b/c/runs/allnet", "a/b/allnet", "a/runs/allnet", "runs/allnet"])
@pytest.mark.parametrize("recorded", ["allnet", "../../../home/mueller/ward7/allnet"], ids=["a name", "a path"])
def test_the_run_is_found_by_its_name_beside_the_bundle_and_above_it(
    bundle: Callable[[str], Bundle], run_at: RunAt, place: str, recorded: str
) -> None:
    file = run_at(place)
    assert reference_file(bundle(recorded), None) == file


def test_a_run_of_that_name_with_another_model_is_passed_over(bundle: Callable[..., Bundle], run_at: RunAt) -> None:
    other = run_at("a/b/c/allnet", b"other weights")
    expected = rf"found another model at {re.escape(str(other))}; give its run folder with --run"
    with pytest.raises(BundleError, match=expected):
        reference_file(bundle(), None)
    file = run_at("a/b/runs/allnet")
    assert reference_file(bundle(), None) == file


def test_where_the_run_was_looked_for_is_said_in_one_line(bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(BundleError) as refused:
        reference_file(bundle(), None)
    assert str(refused.value) == (
        f"expected the Keras model of the bundle in allnet or runs/allnet in {tmp_path}/a/b/c or above it up to "
        f"{tmp_path.parent}, found none; give its run folder with --run"
    )


def test_a_file_that_may_not_be_read_is_passed_over(
    bundle: Callable[..., Bundle], run_at: RunAt, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, file = run_at("a/b/c/runs/allnet"), run_at("a/runs/allnet")

    def sha256(path: Path) -> str:
        if path == private:
            raise PermissionError(13, "Permission denied", str(path))
        return sha256_of_file(path)

    monkeypatch.setattr(export.reference, "sha256_of_file", sha256)
    assert reference_file(bundle(), None) == file


def test_the_run_that_is_named_is_the_one_that_is_looked_at(bundle: Callable[..., Bundle], run_at: RunAt) -> None:
    run_at("a/b/c/allnet")
    file, other = run_at("moved"), run_at("other", b"other weights")
    assert reference_file(bundle(), file.parent) == file
    with pytest.raises(BundleError, match=r"expected .*other/best\.keras to have the SHA-256 .*: the bundle came from"):
        reference_file(bundle(), other.parent)
    with pytest.raises(BundleError, match=r"at .*none/best\.keras, found none; give its run folder with --run"):
        reference_file(bundle(), file.parents[1] / "none")
