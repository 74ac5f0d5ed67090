"""Whether `diagnose` tells before training which networks train: verdict against outcome.

    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py               # about 50 minutes on two cores
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --show        # the tables again
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --remedies    # and what the remedies do
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --seed 1      # networks that no threshold has seen
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --choose 0    # thresholds by one half alone
    KERAS_BACKEND=jax python tests/benchmarks/diagnosis.py --judge       # the record by thresholds of today

Draws each network of trainability.py as it is drawn there, by all methods, with one seed; asks `diagnose`
with labels and without; and holds the answers against the accuracy after training. What peers draw is the
same to the last bit as what trainability.py recorded, so that its accuracies hold; what ours draw changes
with the code, so that these are trained here, as there. With --remedies (about an hour more), the remedy of
each finding of each network that fails is applied, by itself, and the network is trained then too. Figures
go to results/diagnosis.json and .npz after each cell, an activation at a depth, so that they can be judged
again without drawing; a run that was cut off goes on. Thresholds are chosen by --choose on one half of
activations and depths, a chessboard of them: the one with more networks that end in between. Chosen on the
other they are nearly the same, miss 14 % of failing networks on this one and condemn 1.3 % of training ones.
Which figures are judged, and together, was found with both halves in view.

The networks of residual.py come after them, each with its best learning rate: they fail where the loss ends
within 5 % of guessing, and train where it ends below the middle of guessing and the best of all. Their runs
are short, 60 to 150 steps, so that some of these fail for want of time. The one threshold for them,
`rank_collapse`, was chosen on the transformers of 12 blocks, between those that fail and the others.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import keras
import trainability
from diagnosed.choosing import choose
from diagnosed.figures import kept
from diagnosed.record import KINDS, RESIDUAL, RESULTS, Record, ends_of
from diagnosed.remedying import remedied
from diagnosed.training import LOSS, compiled, network, trained
from residual_networks.diagnosed import drawn, outcomes

import keras_winit as winit

PROCESSES = 2
# Of trainability.py, the tasks whose networks are judged.
JUDGED = ("dense", "convolutions", "cancer")


def told(report):
    """What a verdict rests on, and the verdict."""
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
    """What is told of a network with labels and without, and the figures of each."""
    with kept([]) as figures:
        reports = winit.diagnose(model, x, y, loss), winit.diagnose(model, x)
    return dict(zip(KINDS, map(told, reports), strict=True)), dict(zip(KINDS, figures, strict=True))


def look(task, cell, methods, untrained, seed):
    """Of one cell: what is told of some methods' networks, and the accuracies of some after training."""
    (x, y), new = trainability.TASKS[task][0]()
    model = compiled(network(task, cell, x))
    found, figures, ends = {}, {}, {}
    for method in trainability.METHODS:
        if method in methods or method in untrained:
            trainability.METHODS[method](model, x[: trainability.BATCH], seed)
        if method in methods:
            found[method], figures[method] = verdicts(model, x, y, LOSS)
        if method in untrained:
            ends[method] = trained(model, (x, y), new, seed)
    keras.backend.clear_session()
    return found, figures, ends


def measure(tasks, record):
    """Look at what is not in the record, in two processes."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        waiting = {}
        for task in tasks:
            for cell in ends_of(task):
                name = f"{task} {cell}"
                ends = record.trained.get(name, {})
                methods = [
                    each
                    for each in trainability.METHODS
                    if f"{name} | {each} | {KINDS[0]}" not in record.figures
                ]
                untrained = [method for method in trainability.OURS if method not in ends]
                if methods or untrained:
                    waiting[pool.submit(look, task, cell, methods, untrained, record.seed)] = name
        for done in as_completed(waiting):
            name = waiting[done]
            found, figures, ends = done.result()
            record.networks.setdefault(name, {}).update(found)
            record.trained.setdefault(name, {}).update(ends)
            for method, kinds in figures.items():
                record.figures |= {f"{name} | {method} | {kind}": kinds[kind] for kind in KINDS}
            record.keep()
            print(name, {method: found[method]["with labels"]["ok"] for method in found}, flush=True)


def measure_residual(record):
    """Look at those that are not in the record, one after the other."""
    for name, ends in outcomes(RESULTS / "residual.json").items():
        known = record.residual.setdefault(name, {})
        for method in [method for method in ends if method not in known]:
            model, x, y, loss = drawn(name, method, record.seed)
            known[method], figures = verdicts(model, x, y, loss)
            record.figures |= {f"{RESIDUAL}{name} | {method} | {kind}": figures[kind] for kind in KINDS}
            keras.backend.clear_session()
            record.keep()
            print(name, method, known[method]["with labels"]["findings"], ends[method], flush=True)


def measure_remedies(record):
    """Apply the remedies of every finding of all failing networks, and train them, in two processes."""
    failing = {}
    for task, cell, method, end, each in record.rows():
        if end == "fails" and any(severity != "note" for _, severity in each["with labels"]["findings"]):
            failing.setdefault((task, cell), []).append(method)
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        new = {name: methods for name, methods in failing.items() if " ".join(name) not in record.remedies}
        waiting = {pool.submit(remedied, *name, methods, record.seed): name for name, methods in new.items()}
        for done in as_completed(waiting):
            name = " ".join(waiting[done])
            record.remedies[name] = done.result()
            record.keep()
            found = record.remedies[name].items()
            print(name, {method: [each["accuracy"] for each in ends] for method, ends in found}, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("task", nargs="*", help=f"only these: {', '.join(JUDGED)}")
    parser.add_argument("--seed", type=int, default=0, help="of the draws: 0, 1 or 2")
    parser.add_argument("--show", action="store_true", help="only show what was recorded")
    parser.add_argument("--judge", action="store_true", help="judge what was recorded by today's thresholds")
    parser.add_argument("--choose", type=int, metavar="HALF", help="choose thresholds on one half: 0 or 1")
    parser.add_argument("--remedies", action="store_true", help="apply the remedies of failing networks")
    arguments = parser.parse_args()
    record = Record(arguments.seed)
    if arguments.choose is not None:
        choose(record, arguments.choose)
        return
    if arguments.judge:
        record.judge()
        record.keep()
    elif not arguments.show:
        measure(arguments.task or JUDGED, record)
        if record.seed == 0:
            measure_residual(record)
    if arguments.remedies:
        measure_remedies(record)
    record.show()


if __name__ == "__main__":
    main()
