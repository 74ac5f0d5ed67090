"""Whether `diagnose` tells before training which networks train: verdict against outcome.

    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py               # about 50 minutes on two cores
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --show        # the tables again
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --remedies    # and what the remedies do

Draws each network of trainability.py as it is drawn there, by all methods, with the first seed; asks
`diagnose` with labels and without; and holds the answers against the accuracy after training. What peers
draw is the same to the last bit as what trainability.py recorded, so that its accuracies hold; what ours
draw changes with the code, so that these are trained here, as there. With --remedies (about an hour more),
the remedy of each finding of each network that fails is applied, by itself, and the network is trained
then too. Figures go to results/diagnosis.json after each cell, an activation at a depth, so that thresholds
can be chosen without drawing again; a run that was cut off goes on. Thresholds were chosen on one half of
activations and depths, a chessboard of them, but for the last ones, of gradients that fall or grow, which
were chosen with both halves in view.

The networks of residual.py come after them, each with its best learning rate: they fail where the loss ends
within 5 % of guessing, and train where it ends below the middle of guessing and the best of all. Their runs
are short, 60 to 150 steps, so that some of these fail for want of time.
"""

import argparse
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import keras
import numpy as np
import trainability
from measure import about
from residual_networks.diagnosed import drawn, outcomes

import keras_winit as winit

RESULTS = Path(__file__).parent / "results"
PATH = RESULTS / "diagnosis.json"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SEED = 0
PROCESSES = 2
# Where a run ends: (fails below, trains from). Of cancer, 63 % have the commoner answer.
BOUNDS = {"dense": (0.5, 0.9), "convolutions": (0.5, 0.9), "cancer": (0.65, 0.9)}


def figures(report):
    """What the verdict rests on, and the verdict."""
    hidden = report.layers[:-1]
    gradients = [row.gradient for row in hidden]
    return {
        "ok": report.ok,
        "findings": [[finding.code, finding.severity] for finding in report.findings],
        "growth": (gradients[0] or 0.0) / gradients[-1] if gradients[-1] else None,
        "rank": hidden[-1].rank,
        "distinct": hidden[-1].distinct,
        "labels_left": report.labels_left,
        "inputs_left": report.inputs_left,
        "loss": report.loss,
    }


def verdicts(model, x, y, loss):
    """The figures of a network with labels and without."""
    with_labels, without = winit.diagnose(model, x, y, loss), winit.diagnose(model, x)
    return {"with labels": figures(with_labels), "without": figures(without)}


def recorded(task):
    return json.loads((RESULTS / f"trainability_{task}.json").read_text())["cells"]


def look(task, cell, methods, untrained):
    """Of one cell: the figures of some methods' networks, and the accuracies of some after training."""
    (x, y), new = trainability.TASKS[task][0]()
    model = network(task, cell, x)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0), LOSS)
    found, ends = {}, {}
    for method in trainability.METHODS:
        if method in methods or method in untrained:
            trainability.METHODS[method](model, x[: trainability.BATCH], SEED)
        if method in methods:
            found[method] = verdicts(model, x, y, LOSS)
        if method in untrained:
            ends[method] = trained(model, (x, y), new)
    keras.backend.clear_session()
    return found, ends


def network(task, cell, x):
    activation, depth = cell.split()
    return trainability.TASKS[task][1](activation, int(depth), x.shape[1:])


def measure_residual(record):
    """Look at those that are not in the record, one after the other."""
    for name, ends in outcomes(RESULTS / "residual.json").items():
        known = record.setdefault("residual", {}).setdefault(name, {})
        for method in [method for method in ends if method not in known]:
            model, x, y, loss = drawn(name, method, SEED)
            known[method] = verdicts(model, x, y, loss)
            keras.backend.clear_session()
            keep(record)
            print(name, method, known[method]["with labels"]["findings"], ends[method], flush=True)


def residual_rows(record):
    """(name, method, outcome, figures) of each residual network that was looked at."""
    ends = outcomes(RESULTS / "residual.json")
    for name, methods in record.get("residual", {}).items():
        for method, found in methods.items():
            if method in ends.get(name, {}):
                yield name, method, ends[name][method], found


def trained(model, data, new):
    """The accuracy of a compiled model after training as in trainability.py."""
    keras.utils.set_random_seed(SEED)
    model.fit(*data, batch_size=64, epochs=10, verbose=0)
    x, y = new
    logits = model.predict(x, batch_size=len(x), verbose=0)
    return round(float(np.mean(logits.argmax(axis=-1) == y)), 4)


def measure(tasks, record):
    """Look at what is not in the record, in two processes."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        waiting = {}
        for task in tasks:
            for cell in recorded(task):
                known = record["networks"].get(f"{task} {cell}", {})
                ends = record["trained"].get(f"{task} {cell}", {})
                methods = [method for method in trainability.METHODS if method not in known]
                untrained = [method for method in trainability.OURS if method not in ends]
                if methods or untrained:
                    waiting[pool.submit(look, task, cell, methods, untrained)] = f"{task} {cell}"
        for done in as_completed(waiting):
            name = waiting[done]
            found, ends = done.result()
            record["networks"].setdefault(name, {}).update(found)
            record["trained"].setdefault(name, {}).update(ends)
            keep(record)
            print(name, {method: found[method]["with labels"]["ok"] for method in found}, flush=True)


def keep(record):
    helped = remedies_counted(record)
    record |= {"counts": tables(record), "remedies_counts": helped, "about": about("scikit-learn")}
    PATH.write_text(json.dumps(record) + "\n")


def outcome(task, accuracy):
    fails, trains = BOUNDS[task]
    return "fails" if accuracy < fails else "trains" if accuracy >= trains else "between"


def half(cell):
    """0 for what thresholds were chosen on, 1 for what is reported."""
    activation, depth = cell.split()
    depths = (5, 10, 20, 40, 100)
    return (trainability.ACTIVATIONS.index(activation) + depths.index(int(depth))) % 2


def rows(record):
    """(task, cell, method, outcome, figures) of each network that was looked at."""
    for task in trainability.TASKS:
        for cell, methods in recorded(task).items():
            ends = {name: seeds[SEED] for name, seeds in methods.items() if name in trainability.PEERS}
            ends.update(record["trained"].get(f"{task} {cell}", {}))
            for method, found in record["networks"].get(f"{task} {cell}", {}).items():
                yield task, cell, method, outcome(task, ends[method]), found


def counted(found, kind):
    """For each outcome: how many have errors, how many warnings alone, and how many are healthy."""
    counts = {}
    for end in ("fails", "between", "trains"):
        here = [each[kind] for *_, outcome, each in found if outcome == end]
        healthy = sum(all(severity == "note" for _, severity in each["findings"]) for each in here)
        bad = sum(not each["ok"] for each in here)
        if here:
            counts[end] = [bad, len(here) - bad - healthy, healthy]
    return counts


def tables(record):
    """The counts of verdicts against outcomes, in the halves and of each task."""
    found = list(rows(record))
    parts = {
        "the half that thresholds were chosen on": [row for row in found if half(row[1]) == 0],
        "the other half": [row for row in found if half(row[1]) == 1],
        "all": found,
        **{task: [row for row in found if row[0] == task] for task in trainability.TASKS},
        "residual networks": list(residual_rows(record)),
    }
    return {
        kind: {title: counted(part, kind) for title, part in parts.items()}
        for kind in ("with labels", "without")
    }


def show(record):
    for kind, parts in tables(record).items():
        for title, ends in parts.items():
            print(f"\n{title}, {kind}")
            print(f"  {'outcome':10}{'networks':>9}{'errors':>9}{'warnings':>10}{'healthy':>9}{'not ok':>9}")
            for end, (bad, warned, healthy) in ends.items():
                total = bad + warned + healthy
                print(
                    f"  {end:10}{total:9}{bad:9}{warned:10}{healthy:9}{bad / total:9.1%}"
                    f"  with a warning {(bad + warned) / total:.1%}"
                )
    print("\nMissed, and condemned though they train:")
    for task, cell, method, end, each in rows(record):
        if end != "between" and (end == "fails") == each["with labels"]["ok"]:
            print(f"  {end:7}{task} {cell} {method}: {each['with labels']['findings']}")
    for name, method, end, each in residual_rows(record):
        if end != "between" and (end == "fails") == each["with labels"]["ok"]:
            print(f"  {end:7}{name} {method}: {each['with labels']['findings']}")
    for code, (many, gone, healthy, good) in remedies_counted(record).items():
        print(f"remedies of {code}: {many}, the finding goes {gone}, none is left {healthy}, trains {good}")


def apply(remedy, model, x, y):
    """The model with what a remedy says done: the call between its backquotes, or normalizations added."""
    calls = [part for part in remedy.split("`")[1::2] if part.startswith(("initialize", "calibrate"))]
    if calls:
        known = {name: partial(getattr(winit, name), seed=SEED) for name in ("initialize", "calibrate")}
        known |= {"model": model, "data": x, "labels": y, "loss": LOSS}
        eval(calls[0], {"__builtins__": {}}, known)
        return model
    if "BatchNormalization" not in remedy:
        raise ValueError(f"Nothing is known about the remedy {remedy!r}.")
    *hidden, last = (type(layer).from_config(layer.get_config()) for layer in model.layers)
    inner = [part for layer in hidden for part in behind_its_kernel(layer)]
    keras.utils.set_random_seed(SEED)
    return keras.Sequential([keras.Input(model.input_shape[1:]), *inner, last])


def behind_its_kernel(layer):
    """A layer with a normalization behind its kernel, before its activation."""
    if not hasattr(layer, "kernel_initializer"):
        return [layer]
    activation, layer.activation = layer.activation, keras.activations.linear
    layer.kernel_initializer, layer.use_bias = keras.initializers.GlorotUniform(), False
    return [layer, keras.layers.BatchNormalization(), keras.layers.Activation(activation)]


def remedied(task, cell, methods):
    """What the remedies of a cell's failing networks do, and how the networks then train.

    Each remedy of each network is applied by itself; networks that it makes equal to the last bit are
    looked at and trained once.
    """
    (x, y), new = trainability.TASKS[task][0]()
    model, known, found = network(task, cell, x), {}, {}
    for method in trainability.METHODS:  # in their order, as a layer's own initializer is replaced
        trainability.METHODS[method](model, x[: trainability.BATCH], SEED)
        if method not in methods:
            continue
        before = [array.copy() for array in model.get_weights()]
        findings = [each for each in winit.diagnose(model, x, y, LOSS).findings if each.severity != "note"]
        found[method] = []
        for finding in findings:
            # As drawn, and recorded, before; an earlier remedy has left another record.
            trainability.METHODS[method](model, x[: trainability.BATCH], SEED)
            model.set_weights(before)
            helped = apply(finding.remedy, model, x[: trainability.BATCH], y[: trainability.BATCH])
            key = hashlib.sha256(b"".join(each.tobytes() for each in helped.get_weights())).hexdigest()
            if key not in known:
                after = winit.diagnose(helped, x, y, LOSS)
                helped.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0), LOSS)
                codes = [each.code for each in after.findings if each.severity != "note"]
                known[key] = {"ok": after.ok, "left": codes, "accuracy": trained(helped, (x, y), new)}
            told = {"finding": finding.code, "severity": finding.severity, "remedy": finding.remedy}
            found[method].append(told | known[key])
    keras.backend.clear_session()
    return found


def remedies(record):
    """Apply the remedies of every finding of all failing networks, and train them, in two processes."""
    failing = {}
    for task, cell, method, end, each in rows(record):
        if end == "fails" and any(severity != "note" for _, severity in each["with labels"]["findings"]):
            failing.setdefault((task, cell), []).append(method)
    known = record.setdefault("remedies", {})
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        new = {name: methods for name, methods in failing.items() if " ".join(name) not in known}
        waiting = {pool.submit(remedied, *name, methods): name for name, methods in new.items()}
        for done in as_completed(waiting):
            name = " ".join(waiting[done])
            known[name] = done.result()
            keep(record)
            ends = {method: [each["accuracy"] for each in found] for method, found in known[name].items()}
            print(name, ends, flush=True)


def remedies_counted(record):
    """Of each finding's remedies: (how often, the finding goes, nothing is left, the network trains)."""
    counts = {}
    for name, methods in record.get("remedies", {}).items():
        _, trains = BOUNDS[name.partition(" ")[0]]
        for each in (each for found in methods.values() for each in found):
            told = True, each["finding"] not in each["left"], not each["left"], each["accuracy"] >= trains
            for key in (each["finding"], "all"):
                counts[key] = [a + b for a, b in zip(counts.get(key, [0] * 4), told, strict=True)]
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", nargs="*", help="only these: dense, convolutions, cancer")
    parser.add_argument("--show", action="store_true", help="only show what was recorded")
    parser.add_argument("--remedies", action="store_true", help="apply the remedies of failing networks")
    arguments = parser.parse_args()
    record = json.loads(PATH.read_text()) if PATH.exists() else {"networks": {}, "trained": {}}
    if not arguments.show:
        measure(arguments.task or trainability.TASKS, record)
        measure_residual(record)
    if arguments.remedies:
        remedies(record)
    show(record)


if __name__ == "__main__":
    main()
