"""`python -m jem`: fits the bundled Old Faithful data; `python -m jem fit FILE` fits a user's file."""

import signal
import sys

try:
    from jem.cli import main
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in ("typer", "rich", "platformdirs"):
        raise
    print(f"jem: the command needs {missing}: pip install 'jem[cli]'", file=sys.stderr)
    sys.exit(2)

# A terminated command cleans up exactly as an interrupted one does.
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
