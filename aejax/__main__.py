"""`aejax` and `python -m aejax`: a process of its own."""

import sys

from aejax import cli
from aejax.cli import process


def main() -> None:
    """Run the command of this process, which is started again with huge pages if it computes."""
    if len(sys.argv) > 1 and sys.argv[1] in cli.COMMANDS.keys() - cli.READING:
        process.keep_compiled()
        process.start_with_huge_pages()
    cli.main()


if __name__ == "__main__":
    main()
