"""python -m export: onnx, verify, engine, triton, sign, install."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from export.engine import (
    DEFAULT_BATCH,
    DEFAULT_OPTIMIZATION_LEVEL,
    DEFAULT_WORKSPACE_MIB,
    HARDWARE_LEVELS,
    OPTIMIZATION_LEVELS,
    EngineOptions,
    build_engine,
)
from export.fewest_cells import FEWEST_TO_CONVERT, FEWEST_TO_PROVE
from runtime.cell_names import shell_word
from runtime.command_line import (
    DONE,
    PARTLY_DONE,
    REFUSED,
    ArgumentParser,
    batch_size,
    positive_int,
    probability,
    run_command,
    tell,
)
from runtime.errors import UsageError
from runtime.files import refuse_unwritable
from runtime.outcomes import nouns
from runtime.schema import ENGINE_PRECISIONS, MANIFEST_NAME, PRECISIONS, TOLERANCES, Tolerance, Variant
from train.tensorflow_import import quiet_tensorflow

if TYPE_CHECKING:
    from export.gate import Verdict
    from export.scoring import Scores

MOST_NAMED = 10  # of the layers that stay in float32
HARDLY_SMALLER = 0.7  # of the bytes of fp32, where int8 of all layers has a quarter
TOLERANCE_LIMITS = tuple(field.name for field in fields(Tolerance))


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(prog="python -m export", description="Turn a run into a bundle that the runtime reads.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{onnx,verify,engine,triton,sign,install}")
    _add_onnx(commands)
    _add_verify(commands)
    _add_engine(commands)
    _add_triton(commands)
    _add_sign(commands)
    _add_install(commands)
    return parser


def _add_onnx(commands: Any) -> None:
    onnx = commands.add_parser(
        "onnx",
        help="write a bundle with ONNX variants",
        epilog="Exit codes: 0 written, every variant proved; 1 refused, or a variant failed; 2 written, but some cells "
        "could not be read, or the validation part has too few for a proof.",
    )
    onnx.add_argument(
        "--run", type=Path, required=True, metavar="RUN", help="a run folder, or a folder of runs: the best"
    )
    onnx.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="an older bundle there is replaced")
    onnx.add_argument(
        "--precision", nargs="+", choices=PRECISIONS, default=["fp32"], help="fp32 is written in any case"
    )
    onnx.add_argument("--data", type=Path, metavar="DIR", help="where the run's cells lie now; default: where they lay")
    onnx.add_argument(
        "--calibration-data",
        type=Path,
        metavar="DIR",
        help=f"where the run's training cells lie now, or {FEWEST_TO_CONVERT} or more of each class: their look goes "
        "into the bundle, and all but fp32 is fitted to them; default: --data",
    )
    onnx.add_argument(
        "--cells",
        type=positive_int,
        metavar="N",
        help=f"compare on N of the validation cells, {FEWEST_TO_PROVE} or more of each class; default: all",
    )
    onnx.add_argument(
        "--debug-precision", action="store_true", help="name the layers where a variant that fails departs"
    )
    _add_tolerance(onnx, "the bundle records them")
    onnx.add_argument(
        "--data-source",
        default="not stated",
        metavar="TEXT",
        help="where the cells come from, for the model card",
    )
    onnx.set_defaults(run_it=_write_onnx)


def _add_tolerance(parser: Any, note: str) -> None:
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        action="append",
        default=[],
        metavar="PRECISION:LIMIT=VALUE",
        help=f"such as int8:sensitivity=0.01, more than once; limits: {', '.join(TOLERANCE_LIMITS)}; {note}",
    )


def _add_verify(commands: Any) -> None:
    verify = commands.add_parser(
        "verify",
        help="prove a bundle's variants on labelled cells",
        epilog="Exit codes: 0 every variant passed; 1 refused, or a variant failed; 2 no variant failed, but some "
        "cells could not be read, or they were too few for a proof, or fewer than a variant failed on before.",
    )
    verify.add_argument("bundle", type=Path, metavar="BUNDLE", help="the verdict is written into it")
    verify.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help=f"labelled cells; of fewer than {FEWEST_TO_PROVE} of a class the verdict is told and not written",
    )
    verify.add_argument(
        "--run", type=Path, metavar="RUN", help="default: looked for beside the bundle and above it, also in runs"
    )
    verify.add_argument("--cells", type=positive_int, metavar="N", help="take N cells, spread over the data")
    verify.add_argument("--out", type=csv_file, metavar="FILE.csv", help="write what each variant says of each cell")
    verify.add_argument(
        "--debug-precision", action="store_true", help="name the layers where a variant that fails departs"
    )
    _add_tolerance(verify, "the others stay as the bundle records them")
    verify.set_defaults(run_it=_verify)


def _add_triton(commands: Any) -> None:
    triton = commands.add_parser("triton", help="write a model repository for the Triton inference server")
    triton.add_argument("bundle", type=Path, metavar="BUNDLE")
    triton.add_argument("--out", type=Path, required=True, metavar="REPO", help="an older repository there is replaced")
    triton.set_defaults(run_it=_write_triton)


def _add_engine(commands: Any) -> None:
    engine = commands.add_parser("engine", help="build a TensorRT engine on the device that will run it")
    engine.add_argument("bundle", type=Path, metavar="BUNDLE", help="the engine is put into it")
    engine.add_argument("--precision", choices=ENGINE_PRECISIONS, help="of the bundle's variant; default: fp16")
    engine.add_argument(
        "--batch",
        type=batch_size,
        nargs=3,
        default=DEFAULT_BATCH,
        metavar=("MIN", "OPT", "MAX"),
        help=f"the smallest batch, the one to optimize for, the largest; default: {' '.join(map(str, DEFAULT_BATCH))}",
    )
    engine.add_argument(
        "--workspace",
        type=positive_int,
        default=DEFAULT_WORKSPACE_MIB,
        metavar="MIB",
        help="memory that the layers may use; default: %(default)s",
    )
    engine.add_argument(
        "--optimization-level",
        type=int,
        choices=OPTIMIZATION_LEVELS,
        default=DEFAULT_OPTIMIZATION_LEVEL,
        help="from 0, built fastest, to 5, running fastest; default: %(default)s",
    )
    engine.add_argument(
        "--hardware-compatible",
        nargs="?",
        choices=HARDWARE_LEVELS,
        const="ampere-plus",
        default="",
        help="an engine for other GPUs too, slower; without a value: ampere-plus",
    )
    engine.add_argument(
        "--version-compatible", action="store_true", help="an engine for newer versions of TensorRT too, slower"
    )
    engine.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="what earlier builds learnt; default: kept in the bundle"
    )
    engine.add_argument(
        "--unproved", action="store_true", help="build of a variant that failed against the Keras model"
    )
    engine.set_defaults(run_it=_build_engine)


def _add_sign(commands: Any) -> None:
    sign = commands.add_parser("sign", help="sign a bundle with an Ed25519 key, for devices that install it")
    sign.add_argument("bundle", type=Path, metavar="BUNDLE", help="the signature is put into it")
    sign.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="private.pem",
        help="as `openssl genpkey -algorithm ed25519 -out private.pem` makes it",
    )
    sign.set_defaults(run_it=_sign)


def _add_install(commands: Any) -> None:
    install = commands.add_parser("install", help="put a bundle into use on the device that will run it")
    install.add_argument("bundle", type=Path, nargs="?", metavar="BUNDLE", help="with its signature")
    install.add_argument(
        "--to", type=Path, required=True, metavar="DIR", help="DIR/current is the bundle in use, DIR/previous the last"
    )
    source = install.add_mutually_exclusive_group(required=True)
    source.add_argument("--public-key", type=Path, metavar="public.pem", help="of who signs the bundles")
    source.add_argument("--unsigned", action="store_true", help="check no signature")
    source.add_argument("--roll-back", action="store_true", help="put DIR/previous into use again; without BUNDLE")
    install.add_argument(
        "--engine",
        action=argparse.BooleanOptionalAction,
        help="build a TensorRT engine; default: where TensorRT and a GPU are",
    )
    install.add_argument(
        "--precision", choices=PRECISIONS, help="of the engine, or of the self-test without one; default: fp16 or best"
    )
    install.set_defaults(run_it=_install)


def tolerance(text: str) -> tuple[str, str, float]:
    """Parse PRECISION:LIMIT=VALUE."""
    precision, _, rest = text.partition(":")
    limit, _, value = rest.partition("=")
    if precision not in PRECISIONS or limit not in TOLERANCE_LIMITS or not value:
        raise argparse.ArgumentTypeError(
            f"expected {'|'.join(PRECISIONS)}:{'|'.join(TOLERANCE_LIMITS)}=VALUE, received {text}"
        )
    return precision, limit, probability(value)


def csv_file(text: str) -> Path:
    """Parse the name of a table, so that no model is overwritten by one."""
    path = Path(text)
    if path.suffix.lower() != ".csv":
        raise argparse.ArgumentTypeError(f"expected a name that ends in .csv, received {text}")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    options = build_parser().parse_args(arguments)
    code: int = options.run_it(options)
    return code


def _tolerances(options: argparse.Namespace, usual: Mapping[str, Tolerance]) -> dict[str, Tolerance]:
    """Return the usual tolerances by precision, with the limits that the command line changes."""
    changed = dict(usual)
    for precision, limit, value in options.tolerance:
        changed[precision] = replace(changed[precision], **{limit: value})
    return changed


def _refuse_ignored(options: argparse.Namespace, precisions: Sequence[str]) -> None:
    """Raise UsageError for options that say something of precisions which are not there."""
    for precision, limit, _ in options.tolerance:
        if precision not in precisions:
            raise UsageError(
                f"expected --tolerance of {', '.join(precisions)}, received {precision}:{limit}; leave it out, or "
                f"export with --precision {precision}"
            )
    if options.debug_precision and set(precisions) == {"fp32"}:
        raise UsageError(
            "expected a precision to compare with fp32 for --debug-precision, found none; leave it out, or export with "
            "--precision fp16 or int8"
        )


def _write_onnx(options: argparse.Namespace) -> int:
    from export.finished_run import find_run

    _refuse_ignored(options, tuple(dict.fromkeys(("fp32", *options.precision))))
    run = find_run(options.run)
    accuracy = run.validation.accuracy.value
    print(f"{run.config.options.model} of {run.folder}, validation accuracy {accuracy:.2%}, epoch {run.best_epoch}")
    started = time.perf_counter()
    with quiet_tensorflow():
        from export.bundle_writer import ExportOptions, write_bundle
        from export.seen import seen_by_run
        from export.verify import Verification, print_verification

    def report(scores: Scores, verdicts: Sequence[Verdict]) -> None:
        print_verification(
            Verification(scores, verdicts, run.decision.threshold, seen_by_run(run.keras_file, scores.cells))
        )

    written = write_bundle(
        run,
        options.out,
        ExportOptions(
            precisions=tuple(options.precision),
            data=options.data,
            calibration_data=options.calibration_data or options.data,
            gate_cells=options.cells,
            tolerances=_tolerances(options, TOLERANCES),
            debug=options.debug_precision,
            source=options.data_source,
        ),
        report,
    )
    _tell_kept(options.out, written.manifest.variants)
    print(f"{options.out} written in {time.perf_counter() - started:.0f} s")
    if written.not_proved:
        print(f"Not proved, {written.not_proved}; the runtime takes it with --unproved alone")
        print(f"Next: python -m export verify {shell_word(options.out)} --data DIR, with more labelled cells")
        return PARTLY_DONE
    print(f"Next: python -m runtime.classify FOLDER --bundle {shell_word(options.out)} --out results.csv")
    return PARTLY_DONE if written.scores.unreadable else DONE


def _tell_kept(bundle: Path, variants: Sequence[Variant]) -> None:
    """Say which layers stay in float32; warn of an int8 variant of which that is most."""
    bytes_of = {variant.precision: (bundle / variant.file).stat().st_size for variant in variants}
    for variant in variants:
        precision, kept = variant.precision, variant.kept_in_fp32
        if kept:
            more = len(kept) - MOST_NAMED
            others = f" and {more} more, which {MANIFEST_NAME} names" if more > 0 else ""
            count = f"{len(kept)} {nouns(len(kept), 'layer')}"
            print(f"{precision} keeps {count} in float32: {', '.join(kept[:MOST_NAMED])}{others}")
        share = bytes_of[precision] / bytes_of["fp32"]
        if precision in ("int8", "int8_cpu") and share > HARDLY_SMALLER:
            tell(
                f"WARNING: {precision} is {share:.0%} of the size of fp32: most of its weights stay in float32, "
                "so it is hardly faster; leave it out of --precision"
            )


def _verify(options: argparse.Namespace) -> int:
    from runtime.bundle import Bundle

    bundle = Bundle.open(options.bundle)
    _refuse_ignored(options, tuple(variant.precision for variant in bundle.manifest.variants))
    if options.out:
        refuse_unwritable(options.out)
    with quiet_tensorflow():
        from export.gate import recorded_tolerances
        from export.reference import reference_file
        from export.verify import (
            chosen_cells,
            debug,
            failed_on_more,
            print_verification,
            verify,
            write_answers,
            write_verdicts,
        )
    keras_file = reference_file(bundle, options.run)
    cells = chosen_cells(options.data, options.cells)
    tolerances = _tolerances(options, recorded_tolerances(bundle))
    verification = verify(bundle, keras_file, cells, tolerances, options.data.resolve().name)
    print_verification(verification)
    print(verification.seen)
    if options.debug_precision:
        debug(bundle, verification)
    if options.out:
        write_answers(options.out, verification.scores)
    if verification.too_few:
        print(f"The verdict is not written: {verification.too_few}")
        return PARTLY_DONE if verification.passed else REFUSED
    refused = failed_on_more(bundle, verification.verdicts)
    written = [verdict for verdict in verification.verdicts if verdict.precision not in refused]
    if written:
        had_signature = write_verdicts(bundle, written)
        if had_signature:
            print("Its signature, which no longer fits, is removed; sign it again: python -m export sign")
        print(f"The verdict is written into {options.bundle}")
    for precision, older in refused.items():
        print(
            f"{precision} stays refused: it failed on {older.cells} cells ({older.data}), more than these; verify it "
            f"on {older.cells} or more"
        )
    if not verification.passed:
        return REFUSED
    return PARTLY_DONE if refused or verification.scores.unreadable else DONE


def _write_triton(options: argparse.Namespace) -> int:
    from export.triton import write_repository

    models = write_repository(options.bundle, options.out)
    print(f"{options.out} holds {', '.join(models)}")
    print(f"Next: tritonserver --model-repository {shell_word(options.out)}")
    return DONE


def _build_engine(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    path = build_engine(
        options.bundle,
        EngineOptions(
            precision=options.precision,
            batch=tuple(options.batch),
            workspace_mib=options.workspace,
            optimization_level=options.optimization_level,
            hardware_compatible=options.hardware_compatible,
            version_compatible=options.version_compatible,
            timing_cache=options.timing_cache,
            unproved=options.unproved,
        ),
    )
    unproved = " --unproved" if options.unproved else ""
    print(f"{path} written in {time.perf_counter() - started:.0f} s")
    print(f"Next: python -m runtime.classify FOLDER --bundle {shell_word(options.bundle)} --backend tensorrt{unproved}")
    return DONE


def _sign(options: argparse.Namespace) -> int:
    from export.signature import sign_bundle

    print(f"{sign_bundle(options.bundle, options.key)} written")
    print(
        f"Next, on the device: python -m export install {shell_word(options.bundle)} --to DIR --public-key public.pem"
    )
    return DONE


def _install(options: argparse.Namespace) -> int:
    from export.install import InstallOptions, install_bundle, roll_back

    if options.roll_back:
        if options.bundle or options.precision or options.engine is not None:
            raise UsageError("expected --to alone with --roll-back, received more; leave the rest out")
        roll_back(options.to)
    elif options.bundle is None:
        raise UsageError("expected a BUNDLE to install, received none; name its folder")
    else:
        key = None if options.unsigned else options.public_key
        install_bundle(options.bundle, options.to, InstallOptions(key, options.engine, options.precision))
    print(f"Next: python -m runtime.classify FOLDER --bundle {shell_word(options.to / 'current')}")
    return DONE


if __name__ == "__main__":
    run_command(main)
