"""The kernels against eager PyTorch, its fused ops, torch.compile and memory; results in benchmarks/results/.

python benchmarks/kernels/run.py [--quick] [--compile] [--seconds 2] [--name NAME] [op ...]
"""

from __future__ import annotations

import argparse
import gc
from pathlib import Path

from archloom import kernels, kernels_bench, kernels_report

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ops", nargs="*", help="default: all")
    parser.add_argument("--quick", action="store_true", help="float32, contiguous, nine candidates")
    parser.add_argument("--compile", action="store_true", help="torch.compile too (seconds per case)")
    parser.add_argument("--seconds", type=float, default=2.0, help="per case")
    parser.add_argument("--name", default="kernels")
    parser.add_argument("--default-allocator", action="store_true", help="leave glibc's allocator as it is")
    options = parser.parse_args()
    if not kernels.status().native:
        parser.error(f"the compiled kernels are not in use: {kernels.status().reasons['cpu']}")
    allocator = "default" if options.default_allocator else kernels.keep_freed_memory()
    environment = kernels_report.machine(allocator)
    print(*(f"{key}: {value}" for key, value in environment.items()), sep="\n")
    rows = []
    for case in kernels_bench.cases(options.ops or None, quick=options.quick):
        measured = kernels_bench.measure(case, seconds=options.seconds, compiled=options.compile)
        rows += measured
        print(kernels_report.table(measured).split("\n", 2)[2], end="", flush=True)
        gc.collect()
    print(*kernels_report.write(RESULTS, options.name, rows, environment), sep="\n")


if __name__ == "__main__":
    main()
