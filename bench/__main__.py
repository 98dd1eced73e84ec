"""``make bench``: every figure beside its peer, into bench/results.json.

Names on the command line choose; without one all run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench import (
    admissions,
    cold_start,
    dataset_upload,
    datasets,
    datasets_catalogue,
    forecast,
    handover,
    openb,
    scheduler_pass,
    traces,
    usage_year,
    waiting_pages,
)

BENCHES = {
    "admissions": admissions.measure,
    "cold_start": cold_start.measure,
    "dataset_upload": dataset_upload.measure,
    "datasets": datasets.measure,
    "datasets_catalogue": datasets_catalogue.measure,
    "forecast": forecast.measure,
    "handover": handover.measure,
    "openb": openb.measure,
    "scheduler_pass": scheduler_pass.measure,
    "traces": traces.measure,
    "usage_year": usage_year.measure,
    "waiting_pages": waiting_pages.measure,
}
RESULTS = Path(__file__).parent / "results.json"


def main(names: list[str]) -> int:
    """Run and print; results of benches that did not run are kept."""
    unknown = set(names) - set(BENCHES)
    if unknown:
        print(f"No bench {', '.join(sorted(unknown))}; there are: {', '.join(BENCHES)}.")
        return 2
    for name in names or list(BENCHES):
        measured = BENCHES[name]()
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        for key, result in measured.items():
            results[key] = result.as_dict()
            print(
                f"{key}: {result.value:g} {result.unit}, {result.peer}: {result.peer_value:g}, "
                f"ratio {result.ratio:.3f}, n {result.n}"
            )
        RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
