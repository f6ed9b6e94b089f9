"""`python -m bench.traced FILE serve …`: runs `farebox`, and writes a line into FILE for every SQL statement.

The steps of SQLite's virtual machine count the work of a query exactly, regardless of other load: a query that visits
more rows in a larger database shows in them before it shows in any time.
"""

import json
import sys
from pathlib import Path
from typing import Any

import apsw

_COUNTED = ("SQLITE_STMTSTATUS_VM_STEP", "SQLITE_STMTSTATUS_FULLSCAN_STEP", "SQLITE_STMTSTATUS_SORT")


def main() -> None:
    file = Path(sys.argv.pop(1)).open("w", buffering=1)  # noqa: SIM115 - open as long as the program runs

    def ended(event: dict[str, Any]) -> None:
        status = event["stmt_status"]
        file.write(json.dumps([event["sql"], *(status[name] for name in _COUNTED), event["nanoseconds"]]) + "\n")

    apsw.connection_hooks.append(lambda connection: connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, ended))
    from farebox.cli.main import run

    run()


if __name__ == "__main__":
    main()
