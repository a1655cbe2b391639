"""python -m runtime.classify_cluster: an archive in, a folder of Parquet files out, on a Ray cluster."""

from __future__ import annotations

if __name__ == "__main__":
    from runtime.command_line import import_quietly

    import_quietly()

from runtime.cluster.archive import Archive
from runtime.cluster.arguments import build_parser, check_places
from runtime.cluster.job import locked_output
from runtime.command_line import DONE, INTERRUPTED, PARTLY_DONE, run_command, tell
from runtime.inputs import left_out_text
from runtime.outcomes import nouns


def main(arguments: list[str] | None = None) -> int:
    """Classify what the command line names; return the exit code."""
    options = build_parser().parse_args(arguments)
    check_places(options)
    with locked_output(options.out):
        archive = Archive(options, tell)
        try:
            terms = archive.classify()
        except KeyboardInterrupt:
            tell(f"interrupted: {archive.summary}, kept in {options.out}: run the same command to continue")
            return INTERRUPTED
    tell(str(archive.summary))
    if warning := archive.shift.warning:
        tell(warning)
    if terms.left_out:
        tell(left_out_text(terms.left_out, terms.include))
    if archive.unopened:
        tell(f"files that could not be opened: {archive.unopened}; the same command tries them again")
    tell(f"Results: {options.out}, {terms.blocks} Parquet {nouns(terms.blocks, 'file')}")
    return PARTLY_DONE if archive.summary.errors else DONE


if __name__ == "__main__":
    run_command(main)
