"""How long drawing takes against Keras' initializer of the same name, and how much memory.

Usage: KERAS_BACKEND=tensorflow python tests/benchmarks/sampling.py [--pairs N] [--json FILE | --record]
       KERAS_BACKEND=tensorflow python tests/benchmarks/sampling.py --exact

Each pair draws the same tensor once with Keras and once with this package, in turn, after one
warm-up of both; the ratio is ours to Keras', and its median is what to quote. Large orthogonal matrices,
and a batch of heads, are compared with Keras' normal of the same shape too, and on PyTorch with
`torch.nn.init.orthogonal_`. `--record` writes the JSON from which the README's table
is made: tests/benchmarks/results/BACKEND.json. `--exact` compares orthogonal matrices with exact draws
from the Haar distribution instead, about the sizes from which they are drawn another way.
"""

import argparse
import statistics
import time
from pathlib import Path

import keras
from measure import record
from memory import peaks
from rich.progress import track

import keras_winit as winit

PAIRS = {
    "uniform": (keras.initializers.HeUniform(seed=1), winit.HeUniform(seed=1)),
    "normal": (keras.initializers.RandomNormal(seed=1), winit.RandomNormal(seed=1)),
    "truncated_normal": (keras.initializers.HeNormal(seed=1), winit.HeNormal(seed=1, truncated=True)),
    "orthogonal": (keras.initializers.Orthogonal(seed=1), winit.Orthogonal(seed=1)),
}
SHAPES = [(64, 64), (512, 512), (4096, 4096)]
# Orthogonal against a normal: a square, a tall one and the heads of an attention layer.
HEADS = winit.Orthogonal(seed=1, input_axes=[1], output_axes=[2])
AGAINST_NORMAL = {
    (4096, 4096): PAIRS["orthogonal"][1],
    (25088, 4096): PAIRS["orthogonal"][1],
    (12, 512, 64): HEADS,
}
# About where orthogonal matrices begin to be drawn as products: sizes that blocks fill, and others.
AGAINST_EXACT = [
    *[(256, 256), (257, 257), (384, 256), (509, 300), (512, 200), (509, 509), (1000, 150), (1021, 128)],
    *[(1024, 128), (2048, 96), (4096, 64), (4099, 64), (1021, 1021), (8192, 64), (3, 3, 128, 256)],
]
BATCHES_AGAINST_EXACT = [(4, 512, 64), (8, 300, 100), (6, 257, 200), (16, 256, 128), (64, 256, 64)]
RESULTS = Path(__file__).with_name("results")


def torch_orthogonal(shape, dtype):
    import torch

    return torch.nn.init.orthogonal_(torch.empty(shape, dtype=getattr(torch, dtype)))


def seconds(initializer, shape):
    start = time.perf_counter()
    tensor = initializer(shape, dtype="float32")
    keras.ops.convert_to_numpy(tensor[:1, :1])  # waits for asynchronous backends
    return time.perf_counter() - start


def compared(name, shape, both, pairs, peer="Keras"):
    """A row of medians over pairs, printed as it is made."""
    for initializer in both:
        seconds(initializer, shape)
    times = [
        [seconds(initializer, shape) for initializer in both]
        for _ in track(range(pairs), f"{name} {shape}", transient=True)
    ]
    ratios = sorted(mine / other for other, mine in times)
    row = {
        "distribution": name,
        "shape": shape,
        "peer": peer,
        "peer_ms": 1e3 * statistics.median(a for a, _ in times),
        "winit_ms": 1e3 * statistics.median(b for _, b in times),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
        "pairs": pairs,
    }
    print(
        f"{name:18} {shape!s:14} {peer} {row['peer_ms']:9.2f} ms   winit {row['winit_ms']:9.2f} ms   "
        f"ratio {row['ratio']:.2f} ({row['ratio_quartiles'][0]:.2f} to {row['ratio_quartiles'][1]:.2f})",
        flush=True,
    )
    return row


def against_exact(pairs):
    """Print how long a default draw takes against an exact one."""
    for shapes, axes in ((AGAINST_EXACT, ()), (BATCHES_AGAINST_EXACT, ([1], [2]))):
        named = dict(zip(("input_axes", "output_axes"), axes, strict=False))
        both = winit.Orthogonal(seed=1, exact=True, **named), winit.Orthogonal(seed=1, **named)
        for shape in shapes:
            compared("orthogonal", shape, both, pairs, "exact")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--json")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--exact", action="store_true", help="against exact orthogonal draws alone")
    options = parser.parse_args()
    if options.exact:
        against_exact(options.pairs)
        return
    backend = keras.backend.backend()
    rows = []
    for name, both in PAIRS.items():
        for shape in SHAPES:
            pairs = options.pairs if name != "orthogonal" or shape[0] < 4096 else 5
            pairs *= 10 if shape[0] == 64 else 1
            rows.append(compared(name, shape, both, pairs))
    for shape, scheme in AGAINST_NORMAL.items():
        both = (PAIRS["normal"][0], scheme)
        rows.append(compared("orthogonal", shape, both, 5 if shape[0] > 4096 else 15, "Keras' normal"))
    if backend == "torch":
        both = (torch_orthogonal, PAIRS["orthogonal"][1])
        rows.append(compared("orthogonal", SHAPES[-1], both, 5, "torch.nn.init"))
    path = RESULTS / f"{backend}.json" if options.record else options.json
    if path:
        RESULTS.mkdir(exist_ok=True)
        record(path, {"speed": rows, "memory": peaks(8192)})


if __name__ == "__main__":
    main()
