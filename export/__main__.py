"""python -m export: onnx, verify, engine, triton, sign, install."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from export.arguments import build_parser, engine_options, refuse_ignored, tolerances_of
from export.engine import build_engine
from runtime.cell_names import shell_word
from runtime.command_line import DONE, PARTLY_DONE, REFUSED, run_command, tell
from runtime.errors import UsageError
from runtime.files import refuse_unwritable
from runtime.outcomes import nouns
from runtime.schema import INT8_PRECISIONS, MANIFEST_NAME, TOLERANCES, Variant

if TYPE_CHECKING:
    from export.gate import Verdict
    from export.scoring import Scores
    from runtime.bundle import Bundle

MOST_NAMED = 10  # of the layers that stay in float32
HARDLY_SMALLER = 0.7  # of the bytes of fp32, where int8 of all layers has a quarter


def main(arguments: list[str] | None = None) -> int:
    """Run one of the commands; return the exit code."""
    options = build_parser().parse_args(arguments)
    return {
        "onnx": _write_onnx,
        "verify": _verify,
        "engine": _build_engine,
        "triton": _write_triton,
        "sign": _sign,
        "install": _install,
    }[options.command](options)


def _write_onnx(options: argparse.Namespace) -> int:
    from export.bundle_writer import ExportOptions, write_bundle
    from export.finished_run import find_run
    from export.seen import seen_by_run
    from export.verify import Verification, print_verification

    refuse_ignored(options, tuple(dict.fromkeys(("fp32", *options.precision))))
    run = find_run(options.run)
    accuracy = run.validation.accuracy.value
    print(f"{run.config.options.model} of {run.folder}, validation accuracy {accuracy:.2%}, epoch {run.best_epoch}")
    started = time.perf_counter()

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
            tolerances=tolerances_of(options, TOLERANCES),
            debug=options.debug_precision,
            source=options.data_source,
        ),
        report,
    )
    _tell_kept(options.out, written.manifest.variants)
    print(f"{options.out} written in {time.perf_counter() - started:.0f} s")
    if written.not_proved:
        print(f"Not proved, {written.not_proved}; the runtime takes it only with --unproved")
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
        if precision in INT8_PRECISIONS and share > HARDLY_SMALLER:
            tell(
                f"WARNING: {precision} is {share:.0%} of the size of fp32: most of its weights stay in float32, "
                "so it is hardly faster; leave it out of --precision"
            )


def _verify(options: argparse.Namespace) -> int:
    from export.gate import recorded_tolerances
    from export.reference import reference_file
    from export.verify import chosen_cells, debug, print_verification, verify, write_answers
    from runtime.bundle import Bundle

    bundle = Bundle.open(options.bundle)
    refuse_ignored(options, tuple(variant.precision for variant in bundle.manifest.variants))
    if options.out:
        refuse_unwritable(options.out)
    keras_file = reference_file(bundle, options.run)
    cells = chosen_cells(options.data, options.cells)
    tolerances = tolerances_of(options, recorded_tolerances(bundle))
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
    is_any_kept = _write_verdicts(bundle, verification.verdicts)
    if not verification.passed:
        return REFUSED
    return PARTLY_DONE if is_any_kept or verification.scores.unreadable else DONE


def _write_verdicts(bundle: Bundle, verdicts: Sequence[Verdict]) -> bool:
    """Write the verdicts into the bundle; return whether an older failure stays, since these are of fewer cells."""
    from export.verify import failed_on_more, write_verdicts

    refused = failed_on_more(bundle, verdicts)
    written = [verdict for verdict in verdicts if verdict.precision not in refused]
    if written:
        had_signature = write_verdicts(bundle, written)
        if had_signature:
            print("Its signature no longer fits and was removed; sign it again: python -m export sign")
        print(f"The verdict is written into {bundle.folder}")
    for precision, older in refused.items():
        print(
            f"{precision} stays refused: it failed on {older.cells} cells ({older.data}), more than these; verify it "
            f"on {older.cells} or more"
        )
    return bool(refused)


def _write_triton(options: argparse.Namespace) -> int:
    from export.triton import write_repository

    models = write_repository(options.bundle, options.out)
    print(f"{options.out} holds {', '.join(models)}")
    print(f"Next: tritonserver --model-repository {shell_word(options.out)}")
    return DONE


def _build_engine(options: argparse.Namespace) -> int:
    started = time.perf_counter()
    path = build_engine(options.bundle, engine_options(options))
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
