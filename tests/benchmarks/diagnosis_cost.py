"""What `diagnose` costs: its time and its peak of memory, in forward and backward passes of the same batch.

Usage: python tests/benchmarks/diagnosis_cost.py [--pairs N] [--model NAME]

A pass is what a training step computes, without compiling: the loss in training, and its gradient with
respect to all weights. Times are medians of pairs measured in turn. Memory is the resident set above what it
was, each in a process of its own, after a first small batch; the allocators give freed memory back at once,
so that it is what is in use. Results go to results/diagnosis_cost.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from measure import Peak, about, run_with_frugal_malloc

import keras_winit as winit

PATH = Path(__file__).parent / "results" / "diagnosis_cost.json"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def dense():
    hidden = [layers.Dense(1024, "relu") for _ in range(8)]
    return keras.Sequential([keras.Input((512,)), *hidden, layers.Dense(10)]), (256, 512)


def convolutions():
    hidden = [layers.Conv2D(64, 3, padding="same", activation="relu") for _ in range(6)]
    ends = [layers.GlobalAveragePooling2D(), layers.Dense(10)]
    return keras.Sequential([keras.Input((32, 32, 3)), *hidden, *ends]), (64, 32, 32, 3)


def transformer(width=128):
    signal = inputs = keras.Input((64, width))
    for _ in range(4):
        normal = layers.LayerNormalization()(signal)
        signal = signal + layers.MultiHeadAttention(4, width // 4)(normal, normal)
        hidden = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(signal))
        signal = signal + layers.Dense(width)(hidden)
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling1D()(signal))), (64, 64, width)


def mobile_net():
    network = keras.applications.MobileNetV2
    model = network((96, 96, 3), weights=None, classes=10, classifier_activation=None)
    return model, (32, 96, 96, 3)


MODELS = {"dense": dense, "convolutions": convolutions, "transformer": transformer, "MobileNetV2": mobile_net}


def forward_and_backward(model, x, y):
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = LOSS(y, model(x, training=True))
        found = tape.gradient(loss, model.trainable_variables)
    elif keras.backend.backend() == "jax":
        import jax

        def loss_of(weights, state):
            outputs, state = model.stateless_call(weights, state, x, training=True)
            return LOSS(y, outputs), state

        values = [[each.value for each in group] for group in variables(model)]
        found, _ = jax.grad(loss_of, has_aux=True)(*values)
    else:
        import torch

        weights = [each.value for each in model.trainable_variables]
        found = torch.autograd.grad(LOSS(y, model(x, training=True)), weights)
    ops.convert_to_numpy(found[0])  # once it is there


def variables(model):
    return model.trainable_variables, model.non_trainable_variables


def diagnosis(model, x, y):
    winit.diagnose(model, x, y, LOSS, samples=None)


WORK = {"pass": forward_and_backward, "diagnose": diagnosis}


def case(name):
    keras.utils.set_random_seed(0)
    model, shape = MODELS[name]()
    rng = np.random.default_rng(0)
    return model, rng.standard_normal(shape).astype("float32"), rng.integers(0, 10, shape[0])


def peak(name, work):
    """The bytes of one of the two, measured here."""
    model, x, y = case(name)
    WORK[work](model, x[:2], y[:2])
    with Peak() as found:
        WORK[work](model, x, y)
    return found.above


def elsewhere(name, work):
    command = [sys.executable, __file__, "--model", name, "--peak", work]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def ratio(name, pairs):
    """How many times as long as a pass."""
    model, x, y = case(name)
    for work in WORK.values():
        work(model, x, y)
    found = []
    for _ in range(pairs):
        start = time.perf_counter()
        forward_and_backward(model, x, y)
        middle = time.perf_counter()
        diagnosis(model, x, y)
        found.append((time.perf_counter() - middle) / (middle - start))
    return statistics.median(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--peak", choices=WORK, help="print the bytes of this alone, for this model")
    options = parser.parse_args()
    if options.peak:
        if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
            run_with_frugal_malloc()
        print(peak(options.model, options.peak))
        return
    record = json.loads(PATH.read_text()) if PATH.exists() else {}
    here = record.setdefault(keras.backend.backend(), {})
    for name in [options.model] if options.model else MODELS:
        bytes_of = {work: elsewhere(name, work) for work in WORK}
        row = {"time": round(ratio(name, options.pairs), 2), "bytes": bytes_of}
        here[name] = {**row, "memory": round(bytes_of["diagnose"] / bytes_of["pass"], 2)}
        here["about"] = about()
        PATH.write_text(json.dumps(record, indent=1) + "\n")
        print(f"{keras.backend.backend():10} {name:14} {here[name]}", flush=True)


if __name__ == "__main__":
    main()
