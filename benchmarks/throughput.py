"""python -m benchmarks.throughput: files to results, side by side with the ways one would write by hand.

All candidates take the same files through the same preprocessing and the same network, one after the other in each
round, so that a busy machine slows all of them. What counts is the ratio within a round.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.cells import bmp_cells
from benchmarks.record import Row, check_record_folder, write_record
from export.reference import reference_file
from runtime.backends.onnxruntime import available_cpus
from runtime.bundle import DEFAULT_BUNDLE, Bundle
from runtime.classifier import DEFAULT_BATCH_SIZE, Classifier, ClassifierOptions
from runtime.command_line import (
    DONE,
    ArgumentParser,
    batch_size,
    positive_int,
    print_table,
    quiet_tensorflow,
    run_command,
)
from runtime.errors import DataError, UnreadableCellError
from runtime.inputs import find_inputs, spread_over
from runtime.preprocessing import load_cell
from runtime.results import ResultsFile
from runtime.schema import INPUT_NAME, OUTPUT_NAME, PRECISIONS, ImageSpec

CLASSIFY = "classify"
Candidate = Callable[[], object]


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        prog="python -m benchmarks.throughput",
        description="Cells a second of runtime.classify, beside bare ONNX Runtime and Keras, on the CPU.",
    )
    parser.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE)
    parser.add_argument("--data", type=Path, metavar="DIR", help="images; default: drawn cells as 450x450 BMP")
    parser.add_argument("--cells", type=positive_int, default=512, metavar="N", help="files in a round; default 512")
    parser.add_argument("--rounds", type=positive_int, default=5, help="default 5")
    parser.add_argument("--batch-size", type=batch_size, default=DEFAULT_BATCH_SIZE, metavar="N")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of classify; default fp32")
    parser.add_argument("--keras", action="store_true", help="compare with keras.Model.predict, too")
    parser.add_argument("--run", type=Path, metavar="RUN", help="default: where the run lay when it was exported")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where throughput.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    with files_of(options) as paths, TemporaryDirectory() as folder:
        settings = ClassifierOptions(
            bundle=options.bundle, backend="cpu", precision=options.precision, batch_size=options.batch_size
        )
        with Classifier(settings) as classifier:
            description = classifier.description
            candidates = candidates_of(options, classifier, paths, Path(folder))
            seconds = timed_in_turns(candidates, options.rounds)
    rows = [row_of(name, samples, seconds[CLASSIFY], len(paths)) for name, samples in seconds.items()]
    print_table(rows)
    print(f"{len(paths)} files a round, {options.rounds} rounds in turns, batches of {options.batch_size}")
    print("ratio: a candidate's time as a multiple of classify's in the same round")
    if options.out:
        write_record(
            options.out, "throughput", options.bundle, {"model": description, "rows": rows, "seconds": seconds}
        )
    return DONE


@contextmanager
def files_of(options: argparse.Namespace) -> Iterator[list[str]]:
    """Yield exactly --cells paths: of --data, or of the drawn cells, repeated where there are fewer."""
    if options.data:
        paths = spread_over(list(find_inputs([str(options.data)]).paths), options.cells)
        yield list(islice(cycle(paths), options.cells))
        return
    with bmp_cells() as paths:
        yield list(islice(cycle(paths), options.cells))


def candidates_of(
    options: argparse.Namespace, classifier: Classifier, paths: list[str], folder: Path
) -> dict[str, Candidate]:
    """Return what is compared; each call takes all paths to probabilities."""
    batches = [paths[start : start + options.batch_size] for start in range(0, len(paths), options.batch_size)]
    image = classifier.manifest.image
    file = classifier.bundle.path(classifier.bundle.variant(options.precision))
    run_session = bare_session(file)

    def load(batch: list[str]) -> Any:
        return np.stack([load_or_name(path, image) for path in batch])

    loaded = [load(batch) for batch in batches[:8]]  # enough to cycle through, whatever the number of files

    def classify() -> None:
        with ResultsFile(folder / "results.csv") as results:
            for prediction in classifier.classify(paths):
                results.write(prediction)

    def decode() -> None:
        with ThreadPoolExecutor(available_cpus()) as pool:
            list(pool.map(lambda path: load_or_name(path, image), paths))

    def by_pillow(batch: list[str]) -> Any:
        return np.stack([plain_pillow(path, image) for path in batch])

    candidates: dict[str, Candidate] = {
        CLASSIFY: classify,
        "inference alone, cells in memory": lambda: [
            run_session(cells[: len(batch)]) for cells, batch in zip(cycle(loaded), batches, strict=False)
        ],
        "decode and resize alone, all cores": decode,
        "plain Pillow and ONNX Runtime, in turns": lambda: [run_session(by_pillow(batch)) for batch in batches],
    }
    compiled = openvino_run(file)
    if compiled:
        candidates["plain Pillow and OpenVINO, in turns"] = lambda: [compiled(by_pillow(batch)) for batch in batches]
    else:
        print("OpenVINO is not installed: not measured (pip install openvino)")
    if options.keras:
        candidates["keras predict, 2 loading threads"] = keras_predict(classifier.bundle, options.run, batches, load)
    return candidates


def load_or_name(path: str, image: ImageSpec) -> Any:
    """Load a cell; raise DataError with its path where it cannot be read, since such a file times nothing."""
    try:
        return load_cell(path, image)
    except UnreadableCellError as error:
        raise DataError(f"expected images that can be read in --data, found {path}: {error}; take it out") from error


def plain_pillow(path: str, image: ImageSpec) -> Any:
    """Load a square cell as one would by hand; uint8 RGB [height, width, 3]."""
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB").resize((image.width, image.height), Image.Resampling.BILINEAR))


def bare_session(file: Path) -> Callable[[Any], Any]:
    """Return a function that runs a bundle's graph in a session with ONNX Runtime's own defaults."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda cells: session.run([OUTPUT_NAME], {INPUT_NAME: cells})


def openvino_run(file: Path) -> Callable[[Any], Any] | None:
    """Return a function that runs the same graph in OpenVINO with its defaults; None where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    model: Any = openvino.Core().compile_model(str(file), "CPU")
    return lambda cells: model({INPUT_NAME: cells})


def keras_predict(
    bundle: Bundle, run: Path | None, batches: list[list[str]], load: Callable[[list[str]], Any]
) -> Candidate:
    """Return keras.Model.predict over a PyDataset that loads the same files in threads."""
    with quiet_tensorflow():
        import keras

    class Files(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> tuple[Any]:
            return (load(batches[index]),)

    model = keras.models.load_model(reference_file(bundle, run), compile=False)
    return lambda: model.predict(Files(workers=2), verbose=0)


def timed_in_turns(candidates: dict[str, Candidate], rounds: int) -> dict[str, list[float]]:
    """Run every candidate once to warm up, then once in each round; return seconds by candidate and round."""
    for work in candidates.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, work in candidates.items():
            started = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def row_of(name: str, samples: list[float], classify: list[float], cells: int) -> Row:
    """Sum up a candidate: its rate, and its time as a multiple of classify's in the same round."""
    return {
        "candidate": name,
        "cells_per_second": round(cells / float(np.median(samples)), 1),
        **ratio_columns(samples, classify),
    }


def ratio_columns(samples: list[float], baseline: list[float]) -> Row:
    """Return a candidate's time as a multiple of the baseline's in the same round: median, lowest and highest."""
    ratios = sorted(sample / own for sample, own in zip(samples, baseline, strict=True))
    return {
        "ratio": round(float(np.median(ratios)), 3),
        "lowest": round(ratios[0], 3),
        "highest": round(ratios[-1], 3),
    }


if __name__ == "__main__":
    run_command(main)
