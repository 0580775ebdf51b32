"""`aejax` and `python -m aejax`: a process of its own."""

import sys

from aejax import process


def main() -> None:
    """Run the command of this process, which is started again with huge pages, before anything is loaded, if it
    computes.
    """
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and sys.argv[1] not in process.READING:
        process.keep_compiled()
        process.compile_loops_whole()
        process.start_with_huge_pages()
    process.collect_seldom()
    from aejax import cli

    cli.main()


if __name__ == "__main__":
    main()
