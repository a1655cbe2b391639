"""python -m benchmarks.throughput: files to results, beside what one would write by hand.

All candidates take the same files through the same preprocessing and the same network, one after the other in each
round, so that a busy machine slows all of them. What counts is the ratio within a round.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.cells import given_or_drawn
from benchmarks.peers import (
    CLASSIFY,
    KERAS,
    PILLOW_ONNX,
    PILLOW_OPENVINO,
    Workload,
    bare_session,
    by_pillow,
    classify,
    keras_predict,
    load_or_name,
    openvino_run,
)
from benchmarks.record import Row, check_record_folder, write_record
from benchmarks.turns import Candidate, ratio_columns, timed_in_turns
from export.reference import add_run_argument
from runtime.bundle import DEFAULT_BUNDLE
from runtime.classifier import DEFAULT_BATCH_SIZE, Classifier, ClassifierOptions
from runtime.command_line import DONE, ArgumentParser, batch_size, positive_int, print_table, run_command
from runtime.cpus import available_cpus
from runtime.schema import PRECISIONS


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
    add_run_argument(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="where throughput.json is written")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the table, write the record; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_record_folder(options.out)
    with given_or_drawn(options.data, options.cells) as files, TemporaryDirectory() as folder:
        paths = list(islice(cycle(files), options.cells))
        settings = ClassifierOptions(
            bundle=options.bundle, backend="cpu", precision=options.precision, batch_size=options.batch_size
        )
        with Classifier(settings) as classifier:
            description = classifier.description
            file = classifier.bundle.path(classifier.bundle.variant(options.precision))
            workload = Workload(classifier.bundle, file, paths, options.batch_size, options.run)
            candidates = candidates_of(workload, classifier, Path(folder), with_keras=options.keras)
            seconds = timed_in_turns(candidates, options.rounds)
    rows = [row_of(name, samples, seconds[CLASSIFY], len(paths)) for name, samples in seconds.items()]
    print_table(rows)
    print(f"{len(paths)} files a round, {options.rounds} rounds in turns, batches of {options.batch_size}")
    print("ratio: a candidate's time as a multiple of classify's in the same round")
    content = {"model": description, "rows": rows, "seconds": seconds}
    write_record(options.out, "throughput", options.bundle, content)
    return DONE


def candidates_of(
    workload: Workload, classifier: Classifier, folder: Path, *, with_keras: bool
) -> dict[str, Candidate]:
    """Return what is compared; each call takes all paths to probabilities."""
    batches = list(workload.batches())
    run_session = bare_session(workload.file)
    # Enough to cycle through, whatever the number of files.
    loaded = [np.stack([load_or_name(path, workload.image) for path in batch]) for batch in batches[:8]]

    def decode() -> None:
        with ThreadPoolExecutor(available_cpus()) as pool:
            list(pool.map(lambda path: load_or_name(path, workload.image), workload.paths))

    candidates: dict[str, Candidate] = {
        CLASSIFY: lambda: classify(classifier, workload.paths, folder),
        "inference alone, cells in memory": lambda: [
            run_session(cells[: len(batch)]) for cells, batch in zip(cycle(loaded), batches, strict=False)
        ],
        "decode and resize alone, all cores": decode,
        PILLOW_ONNX: by_pillow(workload, run_session),
    }
    if find_spec("openvino"):
        candidates[PILLOW_OPENVINO] = by_pillow(workload, openvino_run(workload.file))
    else:
        print("OpenVINO is not installed: not measured (pip install openvino)")
    if with_keras:
        candidates[KERAS] = keras_predict(workload)
    return candidates


def row_of(name: str, samples: list[float], classify: list[float], cells: int) -> Row:
    """Sum up a candidate: its rate, and its time as a multiple of classify's in the same round."""
    return {
        "candidate": name,
        "cells_per_second": round(cells / float(np.median(samples)), 1),
        **ratio_columns(samples, classify),
    }


if __name__ == "__main__":
    run_command(main)
