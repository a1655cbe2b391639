"""Fixtures that several packages' tests share."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from runtime.backends.cuda_runtime import open_cuda
from runtime.backends.tensorrt import import_tensorrt, this_machine
from runtime.demo import demo_cells
from runtime.errors import BackendError
from runtime.schema import PRECISIONS
from tests.tensorrt_simulator.install import install
from tests.tensorrt_simulator.library import Library
from tests.tensorrt_simulator.rules import VERSIONS
from tests.tiny_bundle import write_tiny_bundle

REAL_CELLS = Path(__file__).parents[2] / "shared" / "cnmc"


@pytest.fixture(scope="session", autouse=True)
def control_c() -> Iterator[None]:
    """Ctrl-C as it is in a terminal: a shell's background job ignores it, and so would all that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session", autouse=True)
def few_cells_prove() -> Iterator[None]:
    """The runs of tests have few validation cells: they are enough for a proof here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.fewest_cells.FEWEST_TO_PROVE", 1)
        yield


@pytest.fixture(scope="session")
def real_cells() -> Path:
    """The folder with cells of the C-NMC 2019 release, which are not part of the project."""
    if not REAL_CELLS.is_dir():
        pytest.skip("the real C-NMC cells are not at hand (expected beside the project in shared/cnmc)")
    return REAL_CELLS


@pytest.fixture
def cell_file(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes one drawn cell under a name; the suffix decides the format."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(demo_cells()[0]) as image:
            image.save(path)
        return path

    return write


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty drawn cells."""
    from train.drawn_cells import draw_cells

    folder = tmp_path_factory.mktemp("drawn") / "cells"
    draw_cells(folder, 30)
    return folder


@pytest.fixture(scope="session")
def finished_run(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of compact at 75 px on the drawn cells, long enough for its batch norms to settle."""
    from runtime.schema import FitOptions, SplitOptions
    from train.fit import fit

    folder = tmp_path_factory.mktemp("runs") / "compact"
    options = FitOptions("compact", str(drawn), SplitOptions("image", (0.6, 0.4, 0.0)), 20, 6, 75, "none", 0)
    fit(options, folder, cache=tmp_path_factory.mktemp("cache"), tell=lambda _: None)
    return folder


@pytest.fixture(scope="session")
def bundle(finished_run: Path) -> Path:
    """The bundle of that run."""
    from export.bundle_writer import ExportOptions, write_bundle
    from export.finished_run import find_run

    folder = finished_run.parent / "bundle"
    write_bundle(find_run(finished_run), folder, ExportOptions(source="drawn cells"))
    return folder


@pytest.fixture(scope="session")
def full_bundle(finished_run: Path) -> Path:
    """The bundle of that run in all precisions; tests that write into it take a copy."""
    from export.bundle_writer import ExportOptions, write_bundle
    from export.finished_run import find_run

    folder = finished_run.parent / "full_bundle"
    write_bundle(find_run(finished_run), folder, ExportOptions(precisions=PRECISIONS, source="drawn cells"))
    return folder


@pytest.fixture(params=VERSIONS)
def simulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """A simulated TensorRT of each version, with a simulated GPU that must be left empty."""
    library = install(monkeypatch, request.param)
    yield library
    assert library.gpu.held == 0, "memory, streams or graphs were not given back"


@pytest.fixture(params=[*VERSIONS, pytest.param("real", marks=pytest.mark.tensorrt)])
def any_tensorrt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A simulated TensorRT of each version, and the real one where there is one."""
    if request.param == "real":
        try:
            this_machine(import_tensorrt(), open_cuda())
        except BackendError as error:
            pytest.skip(f"no real TensorRT with a GPU here: {error}")
    else:
        install(monkeypatch, request.param)
    version: str = request.param
    return version


@pytest.fixture(scope="session")
def written_tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the copies of `tiny_bundle` are made from: hundreds of tests take one."""
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def tiny_bundle(written_tiny_bundle: Path, tmp_path: Path) -> Path:
    """A bundle of 12 px cells with an fp32, an fp16 and an int8 variant, to change at will."""
    return Path(shutil.copytree(written_tiny_bundle, tmp_path / "bundle"))
