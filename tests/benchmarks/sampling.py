"""How long drawing takes against Keras' initializer of the same name, pair by pair.

Usage: KERAS_BACKEND=tensorflow python tests/benchmarks/sampling.py [--pairs N] [--json FILE]

Each pair draws the same tensor once with Keras and once with this package, in turn, after one
warm-up of both; the ratio is ours to Keras', and its median is what to quote.
"""

import argparse
import statistics
import time

import keras
from measure import record
from rich.progress import track

import keras_winit as winit

PAIRS = {
    "uniform": (keras.initializers.HeUniform, winit.HeUniform, {}),
    "normal": (keras.initializers.RandomNormal, winit.RandomNormal, {}),
    "truncated_normal": (keras.initializers.HeNormal, winit.HeNormal, {"truncated": True}),
    "orthogonal": (keras.initializers.Orthogonal, winit.Orthogonal, {}),
}
SHAPES = [(64, 64), (512, 512), (4096, 4096)]


def seconds(initializer, shape):
    start = time.perf_counter()
    tensor = initializer(shape, dtype="float32")
    keras.ops.convert_to_numpy(tensor[:1, :1])  # waits for asynchronous backends
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json")
    options = parser.parse_args()
    rows = []
    for name, (theirs, ours, arguments) in PAIRS.items():
        for shape in SHAPES:
            pairs = options.pairs if name != "orthogonal" or shape[0] < 4096 else 3
            pairs *= 10 if shape[0] == 64 else 1
            both = theirs(seed=1), ours(seed=1, **arguments)
            for initializer in both:
                seconds(initializer, shape)
            times = [
                [seconds(initializer, shape) for initializer in both]
                for _ in track(range(pairs), f"{name} {shape}", transient=True)
            ]
            ratios = sorted(mine / keras_time for keras_time, mine in times)
            row = {
                "distribution": name,
                "shape": shape,
                "keras_ms": 1e3 * statistics.median(a for a, _ in times),
                "winit_ms": 1e3 * statistics.median(b for _, b in times),
                "ratio": statistics.median(ratios),
                "ratio_quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
                "pairs": pairs,
            }
            rows.append(row)
            print(
                f"{name:18} {shape!s:14} Keras {row['keras_ms']:9.2f} ms   winit {row['winit_ms']:9.2f} ms   "
                f"ratio {row['ratio']:.2f} ({row['ratio_quartiles'][0]:.2f}–{row['ratio_quartiles'][1]:.2f})"
            )
    if options.json:
        record(options.json, rows)


if __name__ == "__main__":
    main()
