"""What looking at a model costs: its trace, beside the whole of `initialize`, and that of another checkout.

Usage: python tests/benchmarks/tracing.py [--runs N] [--against CHECKOUT] [NAME ...]

A name is one of keras.applications, or "transformer": a plain one of 48 layers, 256 wide. With
`--against` one process for each of both checkouts stays alive, and they take turns to initialize.
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time
from pathlib import Path

import keras
from keras import layers

import keras_winit as winit


def transformer(depth=48, width=256):
    tokens = keras.Input((32,), dtype="int32")
    x = layers.Embedding(1000, width)(tokens)
    for _ in range(depth):
        normal = layers.LayerNormalization()(x)
        x = layers.Add()([x, layers.MultiHeadAttention(4, width // 4)(normal, normal)])
        hidden = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(hidden)])
    return keras.Model(tokens, layers.Dense(1000)(x))


def seconds(act, *arguments, **options):
    gc.collect()
    start = time.perf_counter()
    act(*arguments, **options)
    return time.perf_counter() - start


def built(name):
    return transformer() if name == "transformer" else getattr(keras.applications, name)(weights=None)


def serve(name):
    """Initialize once for each line of standard input, and say how long that took, and how much CPU time."""
    model = built(name)
    for _ in range(2):
        winit.initialize(model, seed=0)
    print("ready", winit.__file__, flush=True)
    for _ in sys.stdin:
        gc.collect()
        clock, cpu = time.perf_counter(), time.process_time()
        winit.initialize(model, seed=0)
        print(time.perf_counter() - clock, time.process_time() - cpu, flush=True)


def worker(name, checkout):
    """A process that serves from a checkout."""
    here = Path(__file__).parent
    paths = [str(checkout), str(here)]
    code = f"import sys; sys.path[:0] = {paths!r}; import tracing; tracing.serve({name!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    line = process.stdout.readline()
    while line and not line.startswith("ready"):
        line = process.stdout.readline()
    if not Path(line.split()[-1] if line else "").is_relative_to(checkout):
        raise RuntimeError(f"{checkout} is no checkout that can be imported: {line!r}")
    return process


def once(process):
    process.stdin.write("go\n")
    process.stdin.flush()
    return tuple(map(float, process.stdout.readline().split()))


def against(name, checkout, runs):
    """Print medians of the ratios of pairs, each begun by the one and the other in turn."""
    both = [worker(name, Path(__file__).parents[2]), worker(name, Path(checkout).resolve())]
    pairs = []
    for index in range(runs):
        order = (0, 1) if index % 2 else (1, 0)
        times = {place: once(both[place]) for place in order}
        pairs.append([ours / theirs for ours, theirs in zip(times[0], times[1], strict=True)])
    for process in both:
        process.stdin.close()
        process.wait()
    clock, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{name}: initialize takes {clock:.2f} times as long as in {checkout}, {cpu:.2f} of CPU time",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["EfficientNetB7", "NASNetLarge", "transformer"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", metavar="CHECKOUT", help="the folder of an older one")
    options = parser.parse_args()
    for name in options.names:
        if options.against:
            against(name, options.against, options.runs)
            continue
        model = built(name)
        pairs = [
            (seconds(winit.trace, model), seconds(winit.initialize, model, seed=0))
            for _ in range(options.runs + 1)
        ]
        traced, whole = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
        print(
            f"{name} on {keras.backend.backend()}: {len(winit.trace(model).steps)} steps; "
            f"trace {pairs[0][0]:.2f} s the first time, then {traced:.3f} s; initialize {whole:.2f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
