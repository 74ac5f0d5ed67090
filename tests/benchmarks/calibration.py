"""`calibrate` against plain forward passes of the same batch, and against the `lsuv` package.

Usage: python tests/benchmarks/calibration.py [--models …] [--batch N …] [--pairs N] [--memory]
       KERAS_BACKEND=torch python tests/benchmarks/calibration.py --lsuv      (pip install lsuv)

Each round times a forward pass, `calibrate` of the weights that are there, and `calibrate` with its
default scheme, which draws orthogonal weights first; what is compiled or traced at a first call is
left out of all of them. `--memory` compares peaks of the resident set instead, each model in this
one process. `--lsuv` builds plain convolutional stacks twice, of Keras' layers and of PyTorch's.
"""

import argparse
import os
import statistics
import time
from functools import partial

import keras
import numpy as np
from measure import Peak, run_with_frugal_malloc

import keras_winit as winit
from keras_winit.models.running.watching import no_gradients

MODELS = ("VGG19", "ResNet50", "EfficientNetB0")
DEPTHS = (10, 19, 37)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--batch", nargs="+", type=int, default=(32,))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--lsuv", action="store_true")
    options = parser.parse_args()
    if options.memory and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        run_with_frugal_malloc()
    if options.lsuv:
        against_lsuv(options.pairs)
        options.models = ()
    for name in options.models:
        keras.utils.clear_session()
        model = getattr(keras.applications, name)(weights=None)
        for batch in options.batch:
            data = np.random.default_rng(0).standard_normal((batch, *model.input_shape[1:]), "float32")
            (memory if options.memory else speed)(name, model, data, options.pairs)


def forward(model, data):
    with no_gradients():
        keras.ops.convert_to_numpy(model(data, training=False))


def seconds(work):
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def works(model, data):
    return (
        lambda: forward(model, data),
        lambda: winit.calibrate(model, data, scheme="keep", seed=0),
        lambda: winit.calibrate(model, data, seed=0),
    )


def speed(name, model, data, pairs):
    for work in works(model, data):
        work()
    rounds = [[seconds(work) for work in works(model, data)] for _ in range(pairs)]
    plain, keep, drawn = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = [statistics.median(times[i] / times[0] for times in rounds) for i in (1, 2)]
    print(
        f"{name} on {keras.backend.backend()}, batch {len(data)}: forward {plain:.2f} s, calibrate what is "
        f"there {keep:.2f} s, ratio {ratios[0]:.2f}; with orthogonal draws {drawn:.2f} s, "
        f"ratio {ratios[1]:.2f}",
        flush=True,
    )


def memory(name, model, data, _):
    for work in works(model, data):
        work()
    peaks = []
    for work in works(model, data):
        with Peak() as peak:
            work()
        peaks.append(peak.peak / 2**20)
    print(
        f"{name} on {keras.backend.backend()}, batch {len(data)}: forward peaks at {peaks[0]:.0f} MiB, "
        f"calibrate of what is there at {peaks[1]:.0f} MiB, ratio {peaks[1] / peaks[0]:.2f}; with orthogonal "
        f"draws at {peaks[2]:.0f} MiB, ratio {peaks[2] / peaks[0]:.2f}",
        flush=True,
    )


def against_lsuv(pairs):
    """Plain stacks of 3×3 convolutions, 64 channels on 32×32, pooled now and then, and one Dense layer."""
    import torch
    from lsuv import lsuv_with_singlebatch

    data = np.random.default_rng(0).standard_normal((32, 32, 32, 3), "float32")
    channels_first = torch.tensor(np.moveaxis(data, -1, 1).copy())
    for depth in DEPTHS:
        ours, theirs = keras_stack(depth), torch_stack(depth)
        winit.calibrate(ours, data, seed=0)
        works = (
            partial(winit.calibrate, ours, data, seed=0),
            partial(lsuv_with_singlebatch, theirs, channels_first, verbose=False),
        )
        rounds = [[seconds(work) for work in works] for _ in range(pairs)]
        mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(one / two for one, two in rounds)
        print(
            f"{depth} layers: calibrate {mine:.2f} s, lsuv {other:.2f} s, ratio {ratio:.3f}",
            flush=True,
        )


def keras_stack(depth):
    inputs = x = keras.Input((32, 32, 3))
    for index in range(depth - 1):
        x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
        if index in (3, 7):
            x = keras.layers.MaxPooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))


def torch_stack(depth):
    from torch import nn

    parts = []
    for index in range(depth - 1):
        parts += [nn.Conv2d(64 if index else 3, 64, 3, padding=1), nn.ReLU()]
        if index in (3, 7):
            parts.append(nn.MaxPool2d(2))
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(64 * 8 * 8, 10))


if __name__ == "__main__":
    main()
