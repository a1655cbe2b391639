"""Writes a model repository for the Triton inference server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from export.bundle_file import copy_bundle_file
from runtime.backends.engine_files import built_engines, read_record
from runtime.bundle import Bundle
from runtime.cell_names import printable
from runtime.errors import BundleError, OutputError
from runtime.files import output_errors, sha256_of_file
from runtime.folders import folder_written_aside
from runtime.schema import INPUT_NAME, OUTPUT_NAME, ImageSpec, Variant

ONNX_MAX_BATCH = 32  # cells that the server joins into one batch
QUEUE_DELAY_MICROSECONDS = 2000  # that a request waits for others to join its batch
REPOSITORY_MARKER = "ALLNET_BUNDLE.txt"
REPOSITORY_FILES = ("config.pbtxt", "model.onnx", "model.plan")

# The batch dimension is left out of dims: the server adds it where max_batch_size is above 0. So p_all, which is a
# vector of N, is given as N answers of one number each.
CONFIG = """\
name: "{name}"
{platform}
max_batch_size: {max_batch}
input [
  {{ name: "{input}", data_type: TYPE_UINT8, dims: [ {height}, {width}, 3 ] }}
]
output [
  {{ name: "{output}", data_type: TYPE_FP32, dims: [ 1 ], reshape: {{ shape: [ ] }} }}
]
dynamic_batching {{ max_queue_delay_microseconds: {delay} }}
model_warmup [
  {{
    name: "full_batch"
    batch_size: {max_batch}
    inputs {{
      key: "{input}"
      value: {{ data_type: TYPE_UINT8, dims: [ {height}, {width}, 3 ], zero_data: true }}
    }}
  }}
]
"""


def write_repository(bundle_folder: Path, out: Path) -> list[str]:
    """Write the proved variants of a bundle, and the engines built of them, as models of a repository.

    Returns the models' names, such as "allnet_fp16" and "allnet_nvidia-t4-fp16". An engine can be served only by a
    server with the same TensorRT version on the same kind of GPU.

    Raises BundleError where a file was changed or no variant is proved, OutputError where `out` is something else than
    such a repository or lies in the bundle.
    """
    bundle = Bundle.open(bundle_folder)
    _refuse_inside(bundle_folder, out)
    proved = [variant for variant in bundle.manifest.variants if variant.proof.passed]
    if not proved:
        raise BundleError(
            f"expected a proved variant in {bundle_folder}, found none; prove one with `python -m export verify`"
        )
    models = [model for variant in proved for model in _models_of(bundle, variant)]
    with folder_written_aside(out, REPOSITORY_MARKER, REPOSITORY_FILES) as folder, output_errors(out):
        source = printable(bundle_folder.resolve().name)
        (folder / REPOSITORY_MARKER).write_text(f"Written from the bundle {source}\n", encoding="utf-8")
        for model in models:
            _write_model(folder, model, bundle.manifest.image)
    return [model.name for model in models]


def _refuse_inside(bundle_folder: Path, out: Path) -> None:
    """Raise OutputError where `out` lies in the bundle, which could not be exported anew with foreign files in it."""
    if out.resolve().is_relative_to(bundle_folder.resolve()):
        raise OutputError(
            f"expected a place outside the bundle {bundle_folder} for the repository, found {out}; name a folder "
            "beside it"
        )


@dataclass(frozen=True)
class _Model:
    """A model of the repository."""

    name: str
    source: Path
    file: str  # its name in the repository
    platform: str  # the line of the configuration that says what runs it
    max_batch: int


def _models_of(bundle: Bundle, variant: Variant) -> Iterator[_Model]:
    """Yield a variant's ONNX file, and the engines that were built of this very file."""
    network = bundle.manifest.training.config.options.model
    file = bundle.path(variant)
    yield _Model(bundle.served_name(variant.precision), file, "model.onnx", 'backend: "onnxruntime"', ONNX_MAX_BATCH)
    for engine in built_engines(bundle.folder, variant.precision):
        record = read_record(engine)
        if sha256_of_file(engine) != record.engine_sha256:
            raise BundleError(f"expected the engine that is recorded at {engine}, found another; build it again")
        if record.min_batch > 1:
            raise BundleError(
                f"expected an engine for batches from 1 on, {engine} takes {record.min_batch} at least, and the server "
                "also sends single cells; build it again with --batch 1 OPT MAX"
            )
        if record.onnx_sha256 == variant.sha256:
            name = f"{network}_{engine.stem}"
            yield _Model(name, engine, "model.plan", 'platform: "tensorrt_plan"', record.max_batch)


def _write_model(repository: Path, model: _Model, image: ImageSpec) -> None:
    version = repository / model.name / "1"
    version.mkdir(parents=True)
    copy_bundle_file(model.source, version / model.file)
    config = CONFIG.format(
        name=model.name,
        platform=model.platform,
        max_batch=model.max_batch,
        input=INPUT_NAME,
        output=OUTPUT_NAME,
        height=image.height,
        width=image.width,
        delay=QUEUE_DELAY_MICROSECONDS,
    )
    (version.parent / "config.pbtxt").write_text(config, encoding="utf-8")
