"""How much memory drawing one tensor takes at its peak, in sizes of that tensor.

Usage: KERAS_BACKEND=tensorflow python tests/benchmarks/memory.py [--size N] [--json FILE]

Each distribution is drawn in a process of its own, whose resident set is watched above what it was
after a small draw. What the backend compiles for the large one counts, so that it has to be large.
The allocators give freed memory back at once, so that it is what is in use.
"""

import argparse
import os
import subprocess
import sys

import keras
from measure import Peak, record, run_with_frugal_malloc

import keras_winit as winit

SCHEMES = {
    "uniform": winit.HeUniform(seed=1),
    "normal": winit.HeNormal(seed=1),
    "truncated_normal": winit.HeNormal(seed=1, truncated=True),
    "orthogonal": winit.Orthogonal(seed=1),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--json")
    parser.add_argument("--only", choices=SCHEMES, help="print the bytes of this distribution alone")
    options = parser.parse_args()
    if options.only and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        run_with_frugal_malloc()
    shape = (options.size, options.size)
    if options.only:
        scheme = SCHEMES[options.only]
        wait(scheme((64, 64), dtype="float32"))
        with Peak() as peak:
            wait(scheme(shape, dtype="float32"))
        print(peak.above)
        return
    rows = peaks(options.size)
    if options.json:
        record(options.json, {"memory": rows})


def peaks(size):
    """The peak of each distribution, measured in a process of its own."""
    rows = []
    for name in SCHEMES:
        command = [sys.executable, __file__, "--only", name, "--size", str(size)]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        tensors = peak / (4 * size**2)
        rows.append({"distribution": name, "shape": [size, size], "peak_tensors": tensors})
        print(f"{keras.backend.backend():10} {name:16} {size}² peaks at {tensors:.2f} tensors", flush=True)
    return rows


def wait(tensor):
    keras.ops.convert_to_numpy(tensor[:1, :1])


if __name__ == "__main__":
    main()
