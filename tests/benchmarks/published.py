"""How models in the kinds that practitioners publish train, drawn by Keras' default and by ours.

    python tests/benchmarks/published.py                # about 35 minutes on two cores, on TensorFlow
    python tests/benchmarks/published.py vae gpt2       # these alone
    python tests/benchmarks/published.py --show

Each model is small and trained on what it can learn in seconds, by the optimizer and at the learning
rate of what was published: so the learning rate is one that was found for Keras' default. Two seeds,
which also order the batches; the figure is the mean loss of the last eighth of the steps. How much of
the ratios is chance shows "default again": Keras' default, drawn with two other seeds. Results go to
results/published.json after each run; one that was cut off goes on.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import keras
from published_models import generative, tables, text, vision  # noqa: F401
from published_models.task import TASKS

import keras_winit as winit

RESULTS = Path(__file__).parent / "results" / "published.json"
METHODS = {
    "default": lambda model, task, seed: None,
    # Chance: the same draws with other seeds.
    "default again": lambda model, task, seed: winit.initialize(model, "configured", seed=100 + seed),
    "initialize": lambda model, task, seed: winit.initialize(model, seed=seed),
    "calibrate": lambda model, task, seed: winit.calibrate(
        model, task.part(slice(128))[0], seed=seed, progress=False
    ),
}
SEEDS = (0, 1)


def measure(name, method, seed):
    """The mean loss of the last eighth of the steps."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    task = TASKS[name]()
    model = task.build()
    METHODS[method](model, task, seed)
    keras.utils.set_random_seed(1000 + seed)
    losses = task.train(model, seed)
    return statistics.fmean(losses[-max(10, len(losses) // 8) :])


def show(record):
    """Print the last losses, those of ours as ratios to the default's."""
    ratios = {method: [] for method in METHODS if method != "default"}
    for name in TASKS:
        runs = {method: record.get(name, {}).get(method, {}) for method in METHODS}
        if not all(len(found) == len(SEEDS) for found in runs.values()):
            continue
        means = {method: statistics.fmean(found.values()) for method, found in runs.items()}
        line = f"{name:24} default {means['default']:.4g}"
        for method, found in ratios.items():
            found.append(means[method] / means["default"])
            line += f"   {method} ×{found[-1]:.2f}"
        print(line)
    for method, found in ratios.items():
        if found:
            better, worse = sum(each < 1 / 1.1 for each in found), sum(each > 1.1 for each in found)
            middle = math.exp(statistics.fmean(map(math.log, found)))
            print(
                f"{method}: of {len(found)} better by 10 % on {better}, worse on {worse}; "
                f"geometric mean {middle:.2f}"
            )


def main():
    """Measure what is not measured yet, and show all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of models; all without")
    parser.add_argument("--show", action="store_true", help="only print what is recorded")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(TASKS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}. There are: {', '.join(TASKS)}")
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in () if arguments.show else arguments.names or TASKS:
        for method in METHODS:
            for seed in SEEDS:
                found = record.setdefault(name, {}).setdefault(method, {})
                if str(seed) in found:
                    continue
                found[str(seed)] = round(measure(name, method, seed), 6)
                RESULTS.write_text(json.dumps(record, indent=1) + "\n")
                print(f"{name} {method} {seed}: {found[str(seed)]:.4g}", flush=True)
    show(record)


if __name__ == "__main__":
    main()
