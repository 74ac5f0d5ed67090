"""`initialize` on EfficientNetB7: its time against Keras' own draws, and its peak memory.

Usage: python tests/benchmarks/whole_model.py [--pairs N] [--model NAME] [--memory]
       python tests/benchmarks/whole_model.py --model Llama [--memory]      (pip install keras-hub)

First it is timed cold: against what Keras' initializers took while the model was built. Then in
pairs, warm: each draws every weight once from the initializers that Keras built the model with,
and once with `initialize`. Memory is the resident set, watched while `initialize` runs a
second time; the allocator is told to give freed memory back at once, so that it is what is in use.
Llama is keras-hub's, of 1.1 billion parameters in bfloat16, with random weights.
"""

import argparse
import math
import os
import statistics
import time
from functools import partial

import keras
from measure import Peak, run_with_frugal_malloc

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy


def timed_build(make):
    """A model, and the seconds that Keras' initializers took while it was built."""
    names = ("VarianceScaling", "RandomNormal", "RandomUniform", "TruncatedNormal", "Zeros", "Ones")
    kinds = [getattr(keras.initializers, name) for name in names]
    spent = 0.0

    def timed(draw):
        def call(self, *arguments, **options):
            nonlocal spent
            start = time.perf_counter()
            value = draw(self, *arguments, **options)
            getattr(value, "block_until_ready", lambda: None)()
            spent += time.perf_counter() - start
            return value

        return call

    originals = [kind.__call__ for kind in kinds]
    for kind in kinds:
        kind.__call__ = timed(kind.__call__)
    try:
        model = make()
        return model, spent
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.__call__ = original


def llama():
    """keras-hub's Llama of 1.1 billion parameters."""
    from keras_hub.models import LlamaBackbone

    return LlamaBackbone(
        vocabulary_size=32_000,
        num_layers=22,
        num_query_heads=32,
        num_key_value_heads=4,
        hidden_dim=2048,
        intermediate_dim=5632,
        dtype="bfloat16",
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--model", default="EfficientNetB7")
    parser.add_argument("--memory", action="store_true", help="measure memory instead of time")
    options = parser.parse_args()
    if options.memory and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        run_with_frugal_malloc()
    if options.model == "Llama":
        model, keras_seconds = timed_build(llama)
    else:
        model, keras_seconds = timed_build(partial(getattr(keras.applications, options.model), weights=None))
    if not options.memory:
        start = time.perf_counter()
        winit.initialize(model, seed=0)
        ours = time.perf_counter() - start
        print(
            f"{options.model} on {keras.backend.backend()}, for the first time: Keras in its build "
            f"{keras_seconds:.2f} s, initialize {ours:.2f} s, ratio {ours / keras_seconds:.2f}"
        )
    (memory if options.memory else speed)(model, options)


def size_of(variable):
    """Bytes."""
    width = {"float64": 8, "float16": 2, "bfloat16": 2}.get(variable.dtype, 4)
    return math.prod(variable.shape) * width


def memory(model, options):
    winit.initialize(model, seed=0)  # what a backend compiles or sets up once is not counted
    largest = max(size_of(slot.variable) for slot in Anatomy(model).slots)
    with Peak() as peak:
        winit.initialize(model, seed=1)
    print(
        f"{options.model} on {keras.backend.backend()}: peak {peak.above / 2**20:.1f} MiB above the model, "
        f"{peak.above / largest:.2f} times its largest weight"
    )


def wait(configured):
    """Until every value is there: JAX works on while Python has gone ahead."""
    for variable, _ in configured:
        getattr(variable.value, "block_until_ready", lambda: None)()


def speed(model, options):
    configured = [(slot.variable, slot.configured) for slot in Anatomy(model).slots if not slot.kept]
    times = []
    for index in range(options.pairs + 1):
        start = time.perf_counter()
        for variable, initializer in configured:
            variable.assign(initializer(variable.shape, dtype=variable.dtype))
        wait(configured)
        middle = time.perf_counter()
        winit.initialize(model, seed=index)
        wait(configured)
        if index:  # the first is a warm-up
            times.append((middle - start, time.perf_counter() - middle))
    ratios = sorted(ours / theirs for theirs, ours in times)
    theirs, ours = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{options.model} on {keras.backend.backend()}, drawn again: Keras {theirs:.2f} s, initialize "
        f"{ours:.2f} s, ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
