from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from export.__main__ import main
from export.install import InstallOptions, install_bundle, roll_back
from export.signature import sign_bundle
from runtime.bundle import Bundle
from runtime.classifier import Classifier, ClassifierOptions
from runtime.errors import BackendError, BundleError, OutputError, UsageError
from runtime.locks import locked_folder
from runtime.schema import to_json
from tests.export.test_signature import write_keys
from tests.tensorrt_simulator.install import install as install_tensorrt
from tests.tiny_bundle import fail_proof, manifest_of, move_golden_answers, some_cells, write_tiny_bundle

ROOT = Path(__file__).parents[2]
UNSIGNED = InstallOptions(public_key=None, engine=False)


def self_test_here(bundle: Path, backend: str, precision: str) -> str:
    """The self-test without the seconds that a process takes."""
    with Classifier(ClassifierOptions(bundle, backend, precision)) as classifier:
        return classifier.description


def install(bundle: Path, to: Path, options: InstallOptions = UNSIGNED) -> str:
    said: list[str] = []
    install_bundle(bundle, to, options, said.append, self_test_here)
    return "\n".join(said)


def content(folder: Path) -> str:
    return Bundle.open(folder).content_sha256


def bundles(to: Path) -> list[str]:
    return sorted(path.name for path in (to / "installed").iterdir())


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Bundles with other weights."""
    return [write_tiny_bundle(tmp_path / f"bundle{seed}", ("fp32", "fp16"), seed) for seed in range(3)]


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / "device"


def test_current_is_the_last_previous_the_one_before_and_others_go(three: list[Path], to: Path) -> None:
    for bundle in three:
        install(bundle, to)
    assert content(to / "current") == content(three[2])
    assert content(to / "previous") == content(three[1])
    assert sorted(path.name for path in to.iterdir()) == ["current", "installed", "previous"]
    assert [name.split("-")[0] for name in bundles(to)] == ["0002", "0003"]


def test_roll_back_goes_back_and_forth(three: list[Path], to: Path) -> None:
    install(three[0], to)
    with pytest.raises(OutputError, match=r"expected a bundle that was in use before .*, found none"):
        roll_back(to, print, self_test_here)
    install(three[1], to)
    for now, before in [(0, 1), (1, 0)]:
        roll_back(to, print, self_test_here)
        assert (content(to / "current"), content(to / "previous")) == (content(three[now]), content(three[before]))


def test_only_what_the_signature_covers_is_copied(tiny_bundle: Path, to: Path, tmp_path: Path) -> None:
    key = write_keys(tmp_path, "key")
    sign_bundle(tiny_bundle, key)
    (tiny_bundle / "engines").mkdir()
    for name in ("engines/simulated-orin-fp16.engine", "model.fp32.onnx.data", "notes.txt"):
        (tiny_bundle / name).write_text("unsigned")
    install(tiny_bundle, to, InstallOptions(key.with_suffix(".pub"), engine=False))
    expected = ["MODEL_CARD.md", "bundle.json", "bundle.json.sig", "golden.npz"]
    expected += [f"model.{precision}.onnx" for precision in ("fp16", "fp32", "int8")]
    assert sorted(path.name for path in (to / "current").iterdir()) == expected


@pytest.mark.parametrize("file", ["bundle.json", "model.fp16.onnx", "golden.npz", "MODEL_CARD.md", "bundle.json.sig"])
def test_any_changed_file_of_a_signed_bundle_is_refused_and_nothing_appears(
    tiny_bundle: Path, to: Path, tmp_path: Path, file: str
) -> None:
    key = write_keys(tmp_path, "key")
    sign_bundle(tiny_bundle, key)
    changed = bytearray((tiny_bundle / file).read_bytes())
    changed[len(changed) // 2] ^= 1
    (tiny_bundle / file).write_bytes(changed)
    with pytest.raises(BundleError, match=r"expected .*, found .*; (get|copy) the bundle again"):
        install(tiny_bundle, to, InstallOptions(key.with_suffix(".pub"), engine=False))
    assert not to.exists()


def test_the_bundle_in_use_is_not_installed_again_unless_it_is_damaged(three: list[Path], to: Path) -> None:
    install(three[0], to)
    install(three[1], to)
    assert "is installed already at" in install(three[1], to)
    assert [name.split("-")[0] for name in bundles(to)] == ["0001", "0002"]
    (to / "current" / "golden.npz").write_bytes(b"")
    assert "is installed already and does not run as it is to" in install(three[1], to)
    assert [name.split("-")[0] for name in bundles(to)] == ["0001", "0003"], "the one before it stays"
    assert content(to / "previous") == content(three[0])


def test_a_bundle_that_fails_its_self_test_never_comes_into_use(three: list[Path], to: Path) -> None:
    install(three[0], to)
    move_golden_answers(three[1], "fp32", 0.2)
    with pytest.raises(BackendError, match="self-test failed"):
        install_bundle(three[1], to, UNSIGNED)  # in a process of its own
    assert content(to / "current") == content(three[0])
    assert len(bundles(to)) == 1


def test_a_bundle_that_fails_through_the_link_is_rolled_back(three: list[Path], to: Path) -> None:
    def fails_through_link(bundle: Path, backend: str, precision: str) -> str:
        if bundle.name == "current" and content(bundle) == content(three[2]):
            raise BackendError("the driver is gone")
        return self_test_here(bundle, backend, precision)

    install(three[0], to)
    install(three[1], to)
    with pytest.raises(BackendError, match="the driver is gone; the bundle that was in use before is in use again"):
        install_bundle(three[2], to, UNSIGNED, print, fails_through_link)
    assert (content(to / "current"), content(to / "previous")) == (content(three[1]), content(three[0]))
    assert len(bundles(to)) == 2


@pytest.mark.parametrize("scenario", ["install", "roll-back", "engine", "replace"])
def test_killed_at_any_step_what_is_in_use_is_whole_and_nothing_is_left(
    three: list[Path], tmp_path: Path, scenario: str
) -> None:
    command = [sys.executable, "-m", "tests.export.killed_at_each_step", scenario, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 8, "at each change to the disk"


def test_a_second_installation_at_once_is_refused(three: list[Path], to: Path) -> None:
    install(three[0], to)
    with locked_folder(to), pytest.raises(OutputError, match="found another installation that is going on"):
        install(three[1], to)
    assert content(to / "current") == content(three[0])


def test_a_folder_that_holds_something_else_is_left_alone(three: list[Path], to: Path) -> None:
    (to / "installed" / "mine").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"expected a new folder, .* found mine in .*; choose another folder"):
        install(three[0], to)
    assert bundles(to) == ["mine"]


def test_a_current_that_is_no_link_of_ours_is_refused(three: list[Path], to: Path) -> None:
    (to / "current").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"expected .*current to be a link .*; move it away"):
        install(three[0], to)
    (to / "current").rmdir()
    (to / "current").symlink_to(three[1])
    with pytest.raises(OutputError, match=r"expected .*current to lead into .*; remove the link"):
        install(three[0], to)
    assert (to / "current").readlink() == three[1]


def test_a_full_disk_and_a_file_in_the_folders_place_change_nothing(
    three: list[Path], to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*bundle\.json: Not a directory; choose a place"):
        install(three[0], three[1] / "bundle.json")
    install(three[0], to)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.install.copy_bundle_file", full)
    with pytest.raises(OutputError, match=r"cannot write .*device: No space left on device; choose a place"):
        install(three[1], to)
    assert content(to / "current") == content(three[0])
    assert len(bundles(to)) == 1


@pytest.mark.parametrize(("put_in_its_place", "reason"), [(None, "No such file"), ("/proc/self/mem", "Input/output")])
def test_a_source_that_can_no_longer_be_read_is_named(
    three: list[Path], to: Path, put_in_its_place: str | None, reason: str
) -> None:
    if put_in_its_place and not Path(put_in_its_place).exists():
        pytest.skip("only Linux has a file that cannot be read by anyone")
    file = three[1] / "model.fp16.onnx"

    def fail_between_check_and_copy(_: str) -> None:
        file.unlink(missing_ok=True)
        if put_in_its_place:
            file.symlink_to(put_in_its_place)

    install(three[0], to)
    with pytest.raises(
        BundleError, match=rf"cannot read {file}: {reason}.*; check the disk .* or get the bundle again"
    ):
        install_bundle(three[1], to, UNSIGNED, fail_between_check_and_copy, self_test_here)
    assert content(to / "current") == content(three[0])
    assert len(bundles(to)) == 1


def test_a_source_that_changes_while_it_is_copied_is_named(three: list[Path], to: Path) -> None:
    def change(_: str) -> None:
        (three[0] / "model.fp16.onnx").write_bytes(b"another")

    with pytest.raises(BundleError, match=rf"expected {three[0]} to stay as it is while it is copied"):
        install_bundle(three[0], to, UNSIGNED, change, self_test_here)
    assert bundles(to) == []


def test_a_downgrade_is_said(three: list[Path], to: Path) -> None:
    manifest = manifest_of(three[1])
    training = replace(manifest.training, config=replace(manifest.training.config, code_version="0.0.9"))
    (three[1] / "bundle.json").write_text(to_json(replace(manifest, training=training)), encoding="utf-8")
    install(three[0], to)
    assert "a downgrade from version 0.1.0 of this toolkit to 0.0.9" in install(three[1], to)


def test_an_engine_is_built_on_the_device_and_anew_when_it_no_longer_fits(
    three: list[Path], to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = InstallOptions(public_key=None)
    install_tensorrt(monkeypatch, "10.3")
    assert "in use: compact fp16 on TensorRT 10.3.0 on Simulated Orin" in install(three[0], to, options)
    assert "nothing changed: compact fp16 on TensorRT" in install(three[0], to, options)
    install_tensorrt(monkeypatch, "10.13")
    assert "in use: compact fp16 on TensorRT 10.13.3.9" in install(three[0], to, options)
    assert len(bundles(to)) == 1


def test_without_tensorrt_an_engine_is_left_out_or_refused_where_it_is_asked_for(three: list[Path], to: Path) -> None:
    with pytest.raises(BackendError, match="expected TensorRT"):
        install(three[0], to, InstallOptions(public_key=None, engine=True))
    assert not to.exists()
    assert "No engine is built: expected TensorRT" in install(three[0], to, InstallOptions(public_key=None))


def test_of_a_precision_for_a_cpu_no_engine_is_built(to: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", ("fp32", "int8_cpu"))
    install_tensorrt(monkeypatch, "10.3")
    with pytest.raises(UsageError, match="expected fp32, fp16, int8 for an engine, received int8_cpu"):
        install(bundle, to, InstallOptions(public_key=None, engine=True, precision="int8_cpu"))
    assert not to.exists()
    said = install(bundle, to, InstallOptions(public_key=None, precision="int8_cpu"))
    assert "in use: compact int8_cpu on ONNX Runtime" in said


@pytest.mark.parametrize("precision", [None, "fp16"])
def test_what_is_not_proved_is_refused_by_its_own_name_before_anything_is_written(
    three: list[Path], to: Path, precision: str | None
) -> None:
    for failed in ("fp32", "fp16") if precision is None else (precision,):
        fail_proof(three[0], failed)
    with pytest.raises(BundleError, match=rf" of {three[0]} is not: .*; choose .* prove it with `python -m export ver"):
        install(three[0], to, replace(UNSIGNED, precision=precision))
    assert not to.exists()


def test_a_running_classifier_keeps_its_bundle_when_its_folder_is_removed(three: list[Path], to: Path) -> None:
    install(three[0], to)
    with Classifier(ClassifierOptions(to / "current")) as running:
        before = running.backend.infer(some_cells(3)).tolist()
        for bundle in three[1:]:
            install(bundle, to)
        assert not running.bundle.folder.exists()
        running.prove()
        assert running.backend.infer(some_cells(3)).tolist() == before
        assert running.bundle.card == b"A tiny bundle.\n"


def test_the_commands_need_the_runtime_alone(three: list[Path], to: Path, tmp_path: Path) -> None:
    key = write_keys(tmp_path, "key")
    lines = f"""
import sys
for name in ("tensorflow", "keras", "onnx", "tf2onnx", "scipy", "sklearn", "cv2", "h5py"):
    sys.modules[name] = None
from export.__main__ import main
main(["sign", {str(three[0])!r}, "--key", {str(key)!r}])
main(["install", {str(three[0])!r}, "--to", {str(to)!r}, "--public-key", {str(key.with_suffix(".pub"))!r}])
"""
    done = subprocess.run([sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [
        "Services that run keep the bundle that they opened: start them again.",
        f"Next: python -m runtime.classify FOLDER --bundle {to / 'current'}",
    ]
    assert main(["install", "--to", str(to), "--unsigned", str(three[1]), "--no-engine"]) == 0
    assert main(["install", "--to", str(to), "--roll-back"]) == 0
    assert content(to / "current") == content(three[0])
