"""What looking at a model costs: its trace, beside the whole of `initialize`.

Usage: python tests/benchmarks/tracing.py [--runs N] [NAME ...]

A name is one of keras.applications, or "transformer": a plain one of 48 layers, 256 wide.
"""

import argparse
import gc
import statistics
import time

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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["EfficientNetB7", "NASNetLarge", "transformer"])
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    for name in options.names:
        model = transformer() if name == "transformer" else getattr(keras.applications, name)(weights=None)
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
