"""``python -m flows`` is ``cdlabel``."""

from flows.cli import main

main()
