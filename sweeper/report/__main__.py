"""``python -m sweeper.report FOLDER``: write the report of a sweep; `remake` runs this."""

from __future__ import annotations

import sys
from pathlib import Path

from sweeper.report.sweep.write import write_report

if __name__ == "__main__":
    write_report(Path(sys.argv[1]))
