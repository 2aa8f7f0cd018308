"""The command: `python -m benchmarks --help`."""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

from benchmarks import fairness, outstanding, parts, peers, pickup, rates, scale, throughput
from benchmarks.facts import facts
from benchmarks.targets import compared
from benchmarks.work import CACHE

BENCHMARKS = {
    "throughput": throughput.measure,
    "peers": peers.measure,
    "scale": scale.measure,
    "outstanding": outstanding.measure,
    "rates": rates.measure,
    "fairness": fairness.measure,
    "pickup": pickup.measure,
    "parts": parts.measure,
}
_RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Measure what was asked for; everything by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*BENCHMARKS, []], help=" ".join(BENCHMARKS))
    parser.add_argument(
        "--short", action="store_true", help="smaller sizes and fewer turns: minutes instead of an hour"
    )
    parser.add_argument(
        "--work", type=Path, default=CACHE / "work", help="where runs are made: a folder on a real disk"
    )
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    machine = facts(asked.work)
    print("\n".join(f"{name:<10} {value}" for name, value in machine.items()) + "\n")
    began, kept, failed, every = time.time(), {}, [], []
    _RESULTS.mkdir(exist_ok=True)
    path = _RESULTS / time.strftime("%Y%m%dT%H%M%SZ.json", time.gmtime(began))
    for name in asked.names or BENCHMARKS:
        try:
            tables = BENCHMARKS[name](asked.work, short=asked.short)
        except Exception:  # noqa: BLE001 - the others are still to be measured
            traceback.print_exc()
            failed.append(name)
            continue
        print("\n".join(table.text() for table in tables), flush=True)
        every += tables
        kept[name] = [table.as_json() for table in tables]
        path.write_text(json.dumps({"at": began, "short": asked.short, "facts": machine, "tables": kept}, indent=1))
    print(compared(every).text())
    print(f"kept in {path}, after {time.time() - began:,.0f} s")
    for name in failed:
        print(f"not measured: {name}, see above")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
