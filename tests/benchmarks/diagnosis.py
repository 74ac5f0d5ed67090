"""Whether `diagnose` tells before training which networks train: verdict against outcome.

    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py               # about 50 minutes on two cores
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --show        # the tables again
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --remedies    # and what the remedies do

Draws each network of trainability.py as it is drawn there, by all methods, with the first seed; asks
`diagnose` with labels and without; and holds the answers against the accuracy after training. What peers
draw is the same to the last bit as what trainability.py recorded, so that its accuracies hold; what ours
draw changes with the code, so that these are trained here, as there. With --remedies, the first remedy of
networks that fail is applied, and they are trained too. Figures go to results/diagnosis.json after each
cell, an activation at a depth, so that thresholds can be chosen without drawing again; a run that was cut
off goes on. Thresholds were chosen on one half of activations and depths, a chessboard of them.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import keras
import numpy as np
import trainability
from measure import about

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
        "growth": gradients[0] / gradients[-1] if gradients[-1] else None,
        "rank": hidden[-1].rank,
        "distinct": hidden[-1].distinct,
        "labels_left": report.labels_left,
        "inputs_left": report.inputs_left,
        "loss": report.loss,
    }


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
            found[method] = {
                "with labels": figures(winit.diagnose(model, x, y, LOSS)),
                "without": figures(winit.diagnose(model, x)),
            }
        if method in untrained:
            ends[method] = trained(model, (x, y), new)
    keras.backend.clear_session()
    return found, ends


def network(task, cell, x):
    activation, depth = cell.split()
    return trainability.TASKS[task][1](activation, int(depth), x.shape[1:])


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
    record["about"] = about("scikit-learn")
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


def table(found, kind, title):
    print(f"\n{title}, {kind}")
    print(f"  {'outcome':10}{'networks':>9}{'errors':>9}{'warnings':>10}{'healthy':>9}{'not ok':>9}")
    for name in ("fails", "between", "trains"):
        here = [each[kind] for *_, end, each in found if end == name]
        if here:
            bad = sum(not each["ok"] for each in here)
            warned = sum(
                each["ok"] and any(severity == "warning" for _, severity in each["findings"]) for each in here
            )
            print(
                f"  {name:10}{len(here):9}{bad:9}{warned:10}{len(here) - bad - warned:9}"
                f"{bad / len(here):9.1%}  with a warning {(bad + warned) / len(here):.1%}"
            )


def show(record):
    found = list(rows(record))
    for kind in ("with labels", "without"):
        for which, title in ((0, "the half that thresholds were chosen on"), (1, "the other half")):
            table([row for row in found if half(row[1]) == which], kind, title)
        table(found, kind, "all")
    for task in trainability.TASKS:
        table([row for row in found if row[0] == task], "with labels", task)
    wrong = [
        row for row in found if (row[3] == "fails") == row[4]["with labels"]["ok"] and row[3] != "between"
    ]
    print("\nMissed, and condemned though they train:")
    for task, cell, method, end, each in wrong:
        print(f"  {end:7}{task} {cell} {method}: {each['with labels']['findings']}")
    if record.get("remedies"):
        done = record["remedies"].values()
        trained = [each for each in done if each["accuracy"] >= 0.9]
        gone = [each for each in done if each["gone"]]
        print(
            f"\nremedies: {len(done)} networks, the finding goes in {len(gone)}, {len(trained)} train to 0.9"
        )


def apply(remedy, model, x):
    """Do what a remedy says: the call between its backquotes."""
    calls = [part for part in remedy.split("`")[1::2] if part.startswith(("initialize", "calibrate"))]
    if not calls:  # it asks for another model
        return
    (call,) = calls[:1]
    names = {"initialize": winit.initialize, "calibrate": winit.calibrate, "model": model, "data": x}
    eval(call, {"__builtins__": {}}, names)


def remedies(record, task="dense", every=7):
    """Apply the first remedy of failing networks, every seventh, and train them."""
    source, build, _ = trainability.TASKS[task]
    (x, y), (x_new, y_new) = source()
    failing = [row for row in rows(record) if row[0] == task and row[3] == "fails"]
    found = [(cell, method) for _, cell, method, _, each in failing if not each["with labels"]["ok"]]
    for cell, method in found[::every]:
        key = f"{task} {cell} {method}"
        if key in record.setdefault("remedies", {}):
            continue
        activation, depth = cell.split()
        model = build(activation, int(depth), x.shape[1:])
        trainability.METHODS[method](model, x[: trainability.BATCH], SEED)
        finding = winit.diagnose(model, x, y, LOSS).findings[0]
        apply(finding.remedy, model, x[: trainability.BATCH])
        after = winit.diagnose(model, x, y, LOSS)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9, clipnorm=1.0), LOSS)
        keras.utils.set_random_seed(SEED)
        model.fit(x, y, batch_size=64, epochs=10, verbose=0)
        logits = model.predict(x_new, batch_size=len(x_new), verbose=0)
        record["remedies"][key] = {
            "finding": finding.code,
            "remedy": finding.remedy,
            "gone": finding.code not in [each.code for each in after.findings],
            "ok": after.ok,
            "accuracy": round(float(np.mean(logits.argmax(axis=-1) == y_new)), 4),
        }
        PATH.write_text(json.dumps(record) + "\n")
        keras.backend.clear_session()
        print(key, record["remedies"][key], flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", nargs="*", help="only these: dense, convolutions, cancer")
    parser.add_argument("--show", action="store_true", help="only show what was recorded")
    parser.add_argument("--remedies", action="store_true", help="apply the remedies of failing networks")
    arguments = parser.parse_args()
    record = json.loads(PATH.read_text()) if PATH.exists() else {"networks": {}, "trained": {}}
    if not arguments.show:
        measure(arguments.task or trainability.TASKS, record)
    if arguments.remedies:
        remedies(record)
    show(record)


if __name__ == "__main__":
    main()
