"""Which networks learn: activations by depths, for the initializations of Keras, of peers and of ours.

    KERAS_BACKEND=jax python tests/benchmarks/trainability.py dense      # about half an hour on two cores
    KERAS_BACKEND=jax python tests/benchmarks/trainability.py convolutions
    KERAS_BACKEND=jax python tests/benchmarks/trainability.py cancer
    KERAS_BACKEND=jax python tests/benchmarks/trainability.py deep --method looks_linear         # 300 layers
    KERAS_BACKEND=jax python tests/benchmarks/trainability.py deep_convolutions --method looks_linear  # 100
    KERAS_BACKEND=jax python tests/benchmarks/trainability.py lines --method looks_linear   # no activation
    python tests/benchmarks/trainability.py --show dense                 # the tables and the picture again

Plain stacks without normalization or skips: SGD 0.01, momentum 0.9, clipnorm 1, batches of 64, ten
epochs, three seeds, one recipe for all. A cell, an activation at a depth, is solved where the median
accuracy on data that was not trained on is at least 0.90. `lines` are 300 layers of u, u/2, u/6 and u/20:
how far a network that stays linear learns by this recipe, for each slope. Results go to
results/trainability_*.json after each cell; a run that was cut off goes on from there.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops
from measure import about
from sklearn import datasets

import keras_winit as winit

RESULTS = Path(__file__).parent / "results"
ACTIVATIONS = [
    *("relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish"),
    *("tanh", "softsign", "sigmoid", "hard_sigmoid", "softplus"),
]
SEEDS = (0, 1, 2)
SOLVED = 0.90
BATCH = 256  # the samples that LSUV and calibrate see


def digits():
    x, y = datasets.load_digits(return_X_y=True)
    return split(x, y, 1400)


def cancer():
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return split(x, y, 400)


def split(x, y, count):
    x = (x - x.mean(axis=0)) / np.where(x.std(axis=0) > 0, x.std(axis=0), 1)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order].astype("float32"), y[order].astype("int32")
    return (x[:count], y[:count]), (x[count:], y[count:])


def images():
    return tuple((x.reshape(-1, 8, 8, 1), y) for x, y in digits())


def dense(activation, depth, features):
    hidden = [layers.Dense(64, activation) for _ in range(depth)]
    return keras.Sequential([keras.Input(features), *hidden, layers.Dense(10)])


def convolutional(activation, depth, features):
    hidden = [layers.Conv2D(16, 3, padding="same", activation=activation) for _ in range(depth)]
    return keras.Sequential([keras.Input(features), *hidden, layers.Flatten(), layers.Dense(10)])


NAMED = dict(zip(ACTIVATIONS, ACTIVATIONS, strict=True))
LINES = {f"u/{n}" if n > 1 else "u": lambda u, n=n: u / n for n in (1, 2, 6, 20)}
# What is trained: data, network, depths, activations.
TASKS = {
    "dense": (digits, dense, (5, 10, 20, 40, 100), NAMED),
    "convolutions": (images, convolutional, (5, 10, 20, 40), NAMED),
    "cancer": (cancer, dense, (5, 20, 40), NAMED),
    "deep": (digits, dense, (300,), NAMED),
    "deep_convolutions": (images, convolutional, (100,), NAMED),
    "lines": (digits, dense, (300,), LINES),
}


def lsuv(model, batch, seed):
    """Mishkin & Matas 2015, as published: orthogonal, then layer by layer until the variance is 1 ± 0.1."""
    winit.initialize(model, "orthogonal", seed=seed)
    signal = ops.convert_to_tensor(batch)
    for layer in model.layers:
        if layer.weights:
            activation, layer.activation = layer.activation, keras.activations.linear
            for _ in range(10):
                variance = float(ops.var(layer(signal)))
                if abs(variance - 1) < 0.1 or not 0 < variance < np.inf:
                    break
                layer.kernel.assign(layer.kernel / variance**0.5)
            layer.activation = activation
        signal = layer(signal)


def by_gain(model, batch, seed):
    """Orthogonal times the activation's gain, but for the last layer."""
    hidden = winit.Orthogonal(winit.gain(model.layers[0].activation))
    winit.initialize(model, {model.layers[-1].name: "orthogonal", ".*": hidden}, seed=seed)


# How a built model gets its weights: (model, batch, seed). Keras' default is first: a layer's own
# initializer is what it was built with only until another draw is recorded in it.
PEERS = {
    "Keras' default": lambda model, batch, seed: winit.initialize(model, "configured", seed=seed),
    "He normal": lambda model, batch, seed: winit.initialize(model, "he_normal", seed=seed),
    "orthogonal · gain": by_gain,
    "LSUV": lsuv,
}
OURS = {
    "for_activation": lambda model, batch, seed: winit.initialize(model, "auto", seed=seed),
    "looks_linear": lambda model, batch, seed: winit.initialize(model, "looks_linear", seed=seed),
    "calibrate": lambda model, batch, seed: winit.calibrate(model, batch, seed=seed, progress=False),
    "calibrate, centred": lambda model, batch, seed: winit.calibrate(
        model, batch, center="bias", seed=seed, progress=False
    ),
    "calibrate looks_linear": lambda model, batch, seed: winit.calibrate(
        model, batch, scheme="looks_linear", seed=seed, progress=False
    ),
}
METHODS = {**PEERS, **OURS}


def cell(build, activation, depth, data, wanted):
    """The accuracies of one activation at one depth: for each method, one for each seed."""
    (x, y), (x_new, y_new) = data
    model = build(activation, depth, x.shape[1:])
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    found = {}
    for method in wanted:  # Keras' default first, if it is wanted
        found[method] = []
        for seed in SEEDS:
            METHODS[method](model, x[:BATCH], seed)
            keras.utils.set_random_seed(seed)  # the order of the batches
            model.fit(x, y, batch_size=64, epochs=10, verbose=0)
            logits = model.predict(x_new, batch_size=len(x_new), verbose=0)
            found[method].append(round(float(np.mean(logits.argmax(axis=-1) == y_new)), 4))
    keras.backend.clear_session()
    return found


def run(task, only, methods):
    source, build, depths, activations = TASKS[task]
    data, path = source(), RESULTS / f"trainability_{task}.json"
    record = json.loads(path.read_text()) if path.exists() else {"cells": {}}
    cells = [(name, depth) for depth in depths for name in activations]
    start, done = time.perf_counter(), 0
    for name, depth in cells:
        known = record["cells"].setdefault(f"{name} {depth}", {})
        wanted = [method for method in METHODS if method in methods and method not in known]
        if not wanted or (only and depth not in only):
            continue
        known.update(cell(build, activations[name], depth, data, wanted))
        record["about"] = about("scikit-learn")
        path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        done += 1
        shown = "  ".join(f"{method} {median(known, method):.2f}" for method in METHODS if method in known)
        print(f"{time.perf_counter() - start:6.0f} s  {name} {depth}:  {shown}", flush=True)
    return record["cells"]


def median(scores, method):
    return statistics.median(scores[method])


def summary(cells, depths):
    """For each method, how many cells it solves; for ours, what peers solve and it does not."""
    for low, high in ((0, 40), (41, 1000)):
        here = {key: scores for key, scores in cells.items() if low < int(key.split()[1]) <= high}
        if not here:
            continue
        print(f"\n{len(here)} cells of depth {sorted({int(key.split()[1]) for key in here})}")
        solved = {
            method: {key for key, scores in here.items() if median(scores, method) >= SOLVED}
            for method in METHODS
            if all(method in scores for scores in here.values())
        }
        for method, keys in solved.items():
            line = f"  {method:24} solves {len(keys):3}"
            if method in OURS:
                lost = {key for peer in PEERS if peer in solved for key in solved[peer] - keys}
                line += f"; not, though a peer does: {', '.join(sorted(lost)) or 'none'}; mean where both do:"
                for peer in PEERS:
                    both = keys & solved.get(peer, set())
                    if both:
                        mine, other = (
                            statistics.mean(statistics.mean(here[key][name]) for key in both)
                            for name in (method, peer)
                        )
                        line += f" {mine:.4f} (with {peer} {other:.4f})"
            print(line)


def heat_map(cells, task, methods, name, title):
    """A picture: for each method a table of activations by depths, dark where it learns."""
    import matplotlib.pyplot as plt

    _, _, depths, activations = TASKS[task]
    lines, columns = -(-len(methods) // 4), min(4, len(methods))
    size = (3.25 * columns, (0.8 + 0.3 * len(activations)) * lines)
    figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat[len(methods) :]:
        axis.set_axis_off()
    for axis, method in zip(axes.flat, methods, strict=False):
        rows = [[median(cells[f"{each} {depth}"], method) for depth in depths] for each in activations]
        table = np.array(rows)
        axis.imshow(table, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
        for (row, column), value in np.ndenumerate(table):
            solved = value >= SOLVED
            style = {"color": "white" if value > 0.6 else "black", "weight": "bold" if solved else "normal"}
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, **style)
        axis.set_xticks(range(len(depths)), depths)
        if axis in axes[:, 0]:
            axis.set_yticks(range(len(activations)), activations)
        else:
            axis.set_yticks([])
        axis.set_title(f"{method}: {int((table >= SOLVED).sum())} of {table.size}", fontsize=10)
        axis.set_xlabel("hidden layers")
    gap = " " if columns > 1 else "\n"
    figure.suptitle(f"{title};{gap}bold where it is at least {SOLVED}", fontsize=10)
    path = RESULTS / f"{name}.png"
    figure.savefig(path, dpi=80)
    print(f"\n{path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--show", action="store_true", help="only show what was recorded")
    parser.add_argument("--depth", type=int, action="append", help="only this depth; may be repeated")
    parser.add_argument("--method", action="append", choices=METHODS, help="only this; may be repeated")
    arguments = parser.parse_args()
    depths, activations = TASKS[arguments.task][2:]
    if arguments.show:
        cells = json.loads((RESULTS / f"trainability_{arguments.task}.json").read_text())["cells"]
    else:
        cells = run(arguments.task, arguments.depth, arguments.method or list(METHODS))
    summary(cells, depths)
    if len(cells) == len(depths) * len(activations) and not arguments.depth:
        known = [method for method in METHODS if all(method in scores for scores in cells.values())]
        title = f"Accuracy after ten epochs ({arguments.task})"
        heat_map(cells, arguments.task, known, f"trainability_{arguments.task}", title)


if __name__ == "__main__":
    main()
