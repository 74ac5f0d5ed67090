"""How residual networks train from each start, each at its own best learning rate, and at which rates at all.

    python tests/benchmarks/residual.py                 # on JAX; may run in two processes at once
    python tests/benchmarks/residual.py ResNet50 ViT    # these alone
    python tests/benchmarks/residual.py --show

Small networks: transformers on the next character of Python's own help texts, the others on the digits
of scikit-learn, those of keras.applications made slimmer. 60 to 150 steps of 16 samples, Adam for the
transformers, ConvNeXt and the U-Net, else SGD with momentum 0.9; no clipping. Five learning rates, a
factor of three apart; where the best of them is the first or the last, or the last trains, up to two more
on that side. One seed for all rates and two more at the best two, of which the better mean counts; seeds
also order the batches. A run stops where its loss is three times the first, and that is what it counts as.

The figure is the mean loss of the last eighth of the steps, and its spread that of the seeds. A rate
trains if its run ends below the middle of what the best constant answer has and the best of all. Results
go to results/residual.json after each run; one that was cut off goes on, and each process takes a network
that no other is at.
"""

import argparse
import contextlib
import fcntl
import json
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import keras
from measure import about
from residual_networks import applications, towers, transformers  # noqa: F401
from residual_networks.findings import METHODS, RECIPE, SEEDS, Findings, bar, table, whole
from residual_networks.network import NETWORKS, guess, rate_of
from residual_networks.pictures import draw
from residual_networks.training import Trainer, first_and_last

RESULTS = Path(__file__).parent / "results"
PATH = RESULTS / "residual.json"
FURTHER = 2  # more rates on each side, at most


def recorded():
    """All that was recorded."""
    return json.loads(PATH.read_text()) if PATH.exists() else {"networks": {}}


@contextlib.contextmanager
def locked(path, *, wait=True):
    """Nobody else has what a path stands for; yields False where somebody has it and it is not waited for."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def lock_of(name):
    """The file that stands for a network, or for the results."""
    return Path(tempfile.gettempdir()) / f"keras_winit_residual_{name.replace(' ', '_')}.lock"


def untried(network):
    """The record of a network before its first run."""
    known = {"residual": network.residual, "recipe": network.recipe}
    return {**known, "guess": round(guess(network.data()[1]), 5), "runs": {}}


def note(name, method, rate, seed, pair):
    """Write what a run found."""
    with locked(lock_of("results")):
        record, network = recorded(), NETWORKS[name]
        runs = record["networks"].setdefault(name, untried(network))["runs"]
        runs.setdefault(method, {}).setdefault(rate, {})[str(seed)] = pair
        record["about"] = about("scikit-learn")
        record["networks"] = {
            each: record["networks"][each] for each in NETWORKS if each in record["networks"]
        }
        fresh = PATH.with_suffix(".new")
        fresh.write_text(json.dumps(record) + "\n")
        os.replace(fresh, PATH)


def next_run(network, record):
    """The method, the rate and the seed that are to be tried next; None where all is done."""
    runs = record["runs"]
    methods = [method for method in METHODS if method != RECIPE or network.recipe]
    for method in methods:
        for number in network.grid:
            if f"{rate_of(number):g}" not in runs.get(method, {}):
                return method, f"{rate_of(number):g}", 0
    found = Findings(record)
    for method in methods:
        further = further_rate(network, found, method, runs[method])
        if further is not None:
            return method, further, 0
    for method in methods:
        for rate in found.best_rates(method):
            for seed in SEEDS:
                if str(seed) not in runs[method][rate]:
                    return method, rate, seed
    return None


def further_rate(network, found, method, runs):
    """A rate beyond those that were tried, if the best is the first or last of them, or the last trains."""
    numbers = range(network.grid.start - FURTHER, network.grid.stop + FURTHER)
    rates = [f"{rate_of(number):g}" for number in numbers]
    tried = [index for index, rate in enumerate(rates) if rate in runs]
    best, last = found.best_rates(method)[0], rates[tried[-1]]
    if (last == best or last in found.trained(method)) and tried[-1] + 1 < len(rates):
        return rates[tried[-1] + 1]
    return rates[tried[0] - 1] if best == rates[tried[0]] and tried[0] else None


def measure(name):
    """Try on a network all that was not tried yet."""
    network, trainer = NETWORKS[name], None
    while True:
        run = next_run(network, recorded()["networks"].get(name) or untried(network))
        if run is None:
            return
        trainer = trainer or Trainer(network)
        method, rate, seed = run
        start = time.perf_counter()
        losses = trainer.losses(method, float(rate), seed)
        pair = first_and_last(losses, network.steps)
        note(name, method, rate, seed, pair)
        took = time.perf_counter() - start
        print(f"{name}, {method}, {rate}, seed {seed}: {pair[0]} → {pair[1]}, {took:.1f} s", flush=True)


def main():
    """Measure what is not measured yet, and show all."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="of networks; all without")
    parser.add_argument("--show", action="store_true", help="only show what was recorded")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NETWORKS)
    if unknown:
        parser.error(f"no such network: {', '.join(sorted(unknown))}. There are: {', '.join(NETWORKS)}")
    for name in [] if arguments.show else arguments.names or NETWORKS:
        with locked(lock_of(name), wait=False) as mine:
            if mine:
                measure(name)
                keras.backend.clear_session()
    found = whole(recorded())
    print("\n".join([*table(found), *bar(found)]))
    draw(found)


if __name__ == "__main__":
    main()
