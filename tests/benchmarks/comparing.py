"""Whether the start that wins after a tenth of the steps is among the best at the end.

    python tests/benchmarks/comparing.py                # about 50 minutes on two cores, on TensorFlow
    python tests/benchmarks/comparing.py vae gpt2       # these alone
    python tests/benchmarks/comparing.py --show

Each of the models of published.py is trained to the end by `winit.compare`, from each candidate, on the
same batches, two seeds. The winner after a tenth of the steps is what `compare` says when it is given
so many steps; a hit is one that ends within 10 % of the best candidate, by the mean loss of
the last eighth of the steps. Results go to results/comparing.json after each model; a run that was cut off
goes on.
"""

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path

import keras
from published_models import generative, tables, text, vision  # noqa: F401
from published_models.task import TASKS

import keras_winit as winit
from keras_winit.models.comparing.compare import SCHEMES

RESULTS = Path(__file__).parent / "results" / "comparing.json"
CANDIDATES = ("configured", "auto", "torch", "orthogonal", "glorot_uniform", "calibrate")
SEEDS = (0, 1)
SHARE = 10  # of the steps, to find the winner
EARLY = 5  # the curve is kept for a fifth of them
NEAR = 1.1


def measure(name, seed):
    """The first fifth of the curve from each candidate, and where it ends; None for one that did not."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    task = TASKS[name]()
    found = winit.compare(
        task.build(),
        *(task.x, task.y, CANDIDATES, task.steps),
        batch_size=task.batch,
        seed=seed,
        progress=False,
    )
    record = {"steps": task.steps}
    for trial in found.trials:
        end = trial.losses[-max(10, task.steps // 8) :]
        record[trial.start] = {
            "early": [float(f"{loss:.5g}") for loss in trial.losses[: task.steps // EARLY]],
            "end": float(f"{statistics.fmean(end):.5g}") if trial.last is not None else None,
            "said": trial.reason,
        }
    return record


def winner(run, candidates, steps, last):
    """What has the smallest loss after so many steps, the mean of so many of them."""
    found = {
        name: statistics.fmean(run[name]["early"][:steps][-last:])
        for name in candidates
        if run[name]["end"] is not None or len(run[name]["early"]) >= steps
    }
    return min(found, key=found.get)


def ratio(run, ends, candidates, *, share=SHARE, last=None):
    """The end from the winner of a run, in a run that may be another, as a ratio to the best end."""
    steps = max(1, run["steps"] // share)
    last = last or min(steps, max(5, math.ceil(steps / 10)))  # as `compare` takes it
    end = {name: ends[name]["end"] for name in candidates if ends[name]["end"] is not None}
    found = end.get(winner(run, candidates, steps, last), math.inf)
    best = min(end.values())
    return found / best if best > 0 else (1.0 if found == best else math.inf)


def hits(record, candidates, **options):
    """Of how many runs the winner is near the best, within the run and in the one of the other seed."""
    same, other = [], []
    for runs in record.values():
        for one, two in itertools.product(runs, runs):
            (same if one == two else other).append(ratio(runs[one], runs[two], candidates, **options))
    return tuple((sum(each <= NEAR for each in found), len(found)) for found in (same, other))


def show(record):
    """Print each model, then how often the winner is near the best, by candidates and by rule."""
    for name, runs in record.items():
        for seed, run in runs.items():
            ends = {each: run[each]["end"] for each in CANDIDATES}
            best = min(end for end in ends.values() if end is not None)
            shown = "  ".join(
                f"{each} {'–' if end is None else f'×{end / best:.2f}'}" for each, end in ends.items()
            )
            print(f"{name:24} {seed} winner ×{ratio(run, run, CANDIDATES):.2f} of {best:.4g}   {shown}")
    defaults = [name for name in SCHEMES if name in CANDIDATES]
    for label, candidates in (("all", CANDIDATES), ("the default", defaults)):
        (near, count), (far, others) = hits(record, candidates)
        print(
            f"{label}: the winner is near the best in {near} of {count}, "
            f"with the other seed in {far} of {others}"
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
    for seed in () if arguments.show else SEEDS:
        for name in arguments.names or TASKS:
            runs = record.setdefault(name, {})
            if str(seed) in runs:
                continue
            runs[str(seed)] = measure(name, seed)
            RESULTS.write_text(json.dumps(record, indent=None, separators=(",", ":")) + "\n")
            print(f"{name} {seed}", flush=True)
    show(record)


if __name__ == "__main__":
    main()
