"""What one would write by hand in place of classify: the same files and the same network, other code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.latency import refuse_without_answer
from benchmarks.turns import Candidate
from export.reference import reference_file
from runtime.backends.onnxruntime import PROVIDERS, import_onnxruntime
from runtime.backends.openvino import import_openvino
from runtime.bundle import Bundle
from runtime.classifier import Classifier
from runtime.errors import BackendError, BundleError, DataError, UnreadableCellError
from runtime.preprocessing import load_cell
from runtime.results import ResultsFile
from runtime.schema import INPUT_NAME, OUTPUT_NAME, ImageSpec
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSIFY = "classify"
PILLOW_ONNX = "plain Pillow and ONNX Runtime, in turns"
PILLOW_ONNX_ONE = "plain Pillow and ONNX Runtime, one by one"
PILLOW_OPENVINO = "plain Pillow and OpenVINO, in turns"
KERAS = "keras predict, 2 loading threads"
GPU_PROVIDERS = {
    "plain Pillow and ONNX Runtime CUDA, in turns": PROVIDERS["cuda"],
    "plain Pillow and ONNX Runtime TensorRT, in turns": "TensorrtExecutionProvider",
}

RunCells = Callable[[Any], Any]  # uint8 [N, height, width, 3] to p_all [N]


@dataclass(frozen=True)
class Workload:
    """What all ways do: turn `paths` into probabilities with one graph of a bundle."""

    bundle: Bundle
    file: Path  # the graph
    paths: Sequence[str]
    batch_size: int
    run: Path | None  # where the Keras model lies; None: looked for near the bundle

    @property
    def image(self) -> ImageSpec:
        """What the graph takes."""
        return self.bundle.manifest.image

    def batches(self, size: int | None = None) -> Iterator[Sequence[str]]:
        """Yield the paths in batches."""
        size = size or self.batch_size
        return (self.paths[start : start + size] for start in range(0, len(self.paths), size))


def classify(classifier: Classifier, paths: Sequence[str], folder: Path) -> NDArray[np.float32]:
    """Classify as runtime.classify does, into a results file in `folder`; return p_all [N].

    Raises DataError for a file that has no answer.
    """
    answers = []
    with ResultsFile(folder / "results.csv") as results:
        for prediction in classifier.classify(paths):
            refuse_without_answer(prediction)
            results.write(prediction)
            answers.append(prediction.p_all)
    return np.array(answers, np.float32)


def openers(workload: Workload, missing: Collection[str]) -> dict[str, Callable[[], Candidate]]:
    """Return by name what opens each peer that is not `missing`; a candidate returns p_all of all paths."""
    peers: dict[str, Callable[[], Candidate]] = {
        PILLOW_ONNX: lambda: by_pillow(workload, bare_session(workload.file)),
        PILLOW_ONNX_ONE: lambda: by_pillow(workload, bare_session(workload.file), 1),
        PILLOW_OPENVINO: lambda: by_pillow(workload, openvino_run(workload.file)),
        **{name: partial(_by_provider, workload, provider) for name, provider in GPU_PROVIDERS.items()},
        KERAS: lambda: keras_predict(workload),
    }
    return {name: open_peer for name, open_peer in peers.items() if name not in missing}


def missing_peers(workload: Workload) -> dict[str, str]:
    """Return the peers that are not available, each with the reason.

    Keras needs TensorFlow and the run that the bundle came from.
    """
    missing = missing_gpu_peers()
    if not find_spec("openvino"):
        missing[PILLOW_OPENVINO] = "OpenVINO is not installed (pip install openvino)"
    if reason := why_no_keras(workload):
        missing[KERAS] = reason
    return missing


def missing_gpu_peers() -> dict[str, str]:
    """Return the peers that need a GPU, where ONNX Runtime was built without their provider."""
    held = import_onnxruntime("cpu").get_available_providers()
    return {
        name: f"ONNX Runtime here has no {provider}" for name, provider in GPU_PROVIDERS.items() if provider not in held
    }


def why_no_keras(workload: Workload) -> str:
    """Return why the Keras model cannot be run; empty where it can."""
    if not (find_spec("keras") and find_spec("tensorflow")):
        return 'Keras and TensorFlow are not installed (pip install -e ".[train]")'
    try:
        reference_file(workload.bundle, workload.run)
    except BundleError as error:
        return str(error)
    return ""


def plain_pillow(path: str, image: ImageSpec) -> NDArray[np.uint8]:
    """Load a square cell as one would by hand; uint8 RGB [height, width, 3]."""
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB").resize((image.width, image.height), Image.Resampling.BILINEAR))


def by_pillow(workload: Workload, run: RunCells, batch_size: int | None = None) -> Candidate:
    """Return the loop that decodes a batch, has it inferred, and goes on to the next."""

    def loop() -> Any:
        batches = workload.batches(batch_size)
        loaded = (np.stack([plain_pillow(path, workload.image) for path in batch]) for batch in batches)
        return np.concatenate([run(cells) for cells in loaded])

    return loop


def bare_session(file: Path, provider: str = PROVIDERS["cpu"]) -> RunCells:
    """Return a function that runs a bundle's graph in a session with ONNX Runtime's own defaults."""
    session = _session(file, provider)
    return lambda cells: session.run([OUTPUT_NAME], {INPUT_NAME: cells})[0]


def _session(file: Path, provider: str) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=[provider])
    if session.get_providers()[0] != provider:
        raise BackendError(f"expected a session on {provider}, ONNX Runtime fell back to {session.get_providers()[0]}")
    return session


def resident_session(
    file: Path, provider: str = PROVIDERS["cuda"], device: str = "cuda"
) -> Callable[[NDArray[np.uint8]], Candidate]:
    """Return what makes a run of the graph on cells that lie in the device's memory, where the answers stay.

    The run returns when the device has done its work.
    """
    onnxruntime = import_onnxruntime(device)
    session = _session(file, provider)

    def run_on(cells: NDArray[np.uint8]) -> Candidate:
        binding = session.io_binding()
        binding.bind_ortvalue_input(INPUT_NAME, onnxruntime.OrtValue.ortvalue_from_numpy(cells, device, 0))
        binding.bind_output(OUTPUT_NAME, device, 0)

        def run() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    return run_on


def openvino_run(file: Path) -> RunCells:
    """Return a function that runs the same graph in OpenVINO, in float32 where the graph has float32.

    Its default rounds to bfloat16 on CPUs that compute with it, which moves p_all of compact by a tenth.
    """
    model: Any = import_openvino().Core().compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda cells: model({INPUT_NAME: cells})[OUTPUT_NAME].copy()


def keras_predict(workload: Workload) -> Candidate:
    """Return keras.Model.predict over a PyDataset that loads the same files in threads."""
    with quiet_tensorflow():
        import keras

        from export.to_onnx import calibrate

    batches = list(workload.batches())

    class Files(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> tuple[Any]:
            return (np.stack([load_or_name(path, workload.image) for path in batches[index]]),)

    model = keras.models.load_model(reference_file(workload.bundle, workload.run), compile=False)
    calibrate(model, workload.bundle.manifest.decision.temperature)
    return lambda: model.predict(Files(workers=2), verbose=0)[:, 0]


def load_or_name(path: str, image: ImageSpec) -> NDArray[np.uint8]:
    """Load a cell; raise DataError with its path where it cannot be read, since such a file times nothing."""
    try:
        return load_cell(path, image)
    except UnreadableCellError as error:
        raise DataError(f"expected images that can be read in --data, found {path}: {error}; take it out") from error


def _by_provider(workload: Workload, provider: str) -> Candidate:
    with suppress(BackendError):
        import_onnxruntime("cuda")  # finds the CUDA and cuDNN libraries that pip installed
    return by_pillow(workload, bare_session(workload.file, provider))
