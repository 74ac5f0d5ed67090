"""Whether the start that wins after a tenth of the steps is among the best at the end.

    python tests/benchmarks/comparing.py                # a quarter of an hour on two cores, on TensorFlow
    python tests/benchmarks/comparing.py vae gpt2       # these alone
    python tests/benchmarks/comparing.py --show

Each of the models of published.py is trained to the end by `winit.compare`, from each candidate, on the
same batches, two seeds. The winner after a tenth of the steps is what `compare` says when it is given
so many steps; a hit is one that ends within 10 % of the best candidate, by the mean loss of
the last eighth of the steps. Results go to results/comparing.json after each model; a run that was cut off
goes on. `--show` prints how other rules would have chosen, too, and how often the one start is near the best
that was the best with the other seed: what a draw's luck leaves to any rule.
"""

import argparse
import itertools
import json
import math
import statistics
from pathlib import Path

import keras
import numpy as np
from published_models import generative, tables, text, vision  # noqa: F401
from published_models.task import TASKS

import keras_winit as winit
from keras_winit.models.comparing.compare import SCHEMES
from keras_winit.models.comparing.comparison import Comparison, Trial

RESULTS = Path(__file__).parent / "results" / "comparing.json"
CANDIDATES = (*SCHEMES, "glorot_uniform")
SEEDS = (0, 1)
SHARE = 10  # of the steps, to find the winner
TRIED = {  # what the loss of a start is told by, in the steps that are seen
    "the mean of all": np.mean,
    "the mean of the second half": lambda losses: np.mean(losses[len(losses) // 2 :]),
    "the median of the second half": lambda losses: np.median(losses[len(losses) // 2 :]),
    "the mean of the last quarter": lambda losses: np.mean(losses[-max(1, len(losses) // 4) :]),
    "a power law, e times as far": lambda losses: power_law(losses, 1.0),
    "a power law, to the end": lambda losses: power_law(losses, math.log(SHARE)),
}
MARGINS = 0.0, 0.1, 0.2  # within which the start that is named first counts as the best
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


def winner(run, candidates, share):
    """The start that `compare` would name after a part of the steps."""
    steps = max(1, run["steps"] // share)
    trials = []
    for name in candidates:
        losses = run[name]["early"][:steps]
        diverged = len(losses) + 1 if len(losses) < steps else None
        trials.append(Trial(name, None, tuple(losses), diverged, run[name]["said"], steps))
    return Comparison(tuple(trials), steps, "", "loss", 0, "").winner.start


def ratio(run, ends, candidates, share=SHARE):
    """The end from the winner of a run, in a run that may be another, as a ratio to the best end."""
    end = {name: ends[name]["end"] for name in candidates if ends[name]["end"] is not None}
    return end.get(winner(run, candidates, share), math.inf) / min(end.values())


def power_law(losses, ahead):
    """What a power law through both halves of the losses says, so many e-foldings of the steps later."""
    half = len(losses) // 2
    if not half:
        return float(losses[0])
    (early, then), (late, now) = (
        (np.log(max(np.mean(losses[part]), 1e-9)), np.mean(np.log(np.arange(1, len(losses) + 1)[part])))
        for part in (slice(half), slice(half, None))
    )
    return math.exp(late + min(0.0, (late - early) / (now - then)) * ahead)


def told(run, tell, margin):
    """The start that another rule names."""
    steps = max(1, run["steps"] // SHARE)
    seen = {name: np.array(run[name]["early"][:steps]) for name in SCHEMES}
    found = {name: float(tell(losses)) for name, losses in seen.items() if len(losses) == steps}
    return next(name for name, loss in found.items() if loss <= (1 + margin) * min(found.values()))


def near_the_best(run, start):
    """Whether a start ends within 10 % of the best."""
    ends = {name: run[name]["end"] or math.inf for name in SCHEMES}
    return ends[start] <= NEAR * min(ends.values())


def show_tried(record):
    """Print how often other rules name a start near the best, and one that knows another draw's end."""
    runs = [run for found in record.values() for run in found.values()]
    for label, tell in TRIED.items():
        shown = ", ".join(
            f"{sum(near_the_best(run, told(run, tell, margin)) for run in runs)} (margin {margin:.0%})"
            for margin in MARGINS
        )
        print(f"by {label}: {shown} of {len(runs)}")
    known = 0
    for found in record.values():
        for run, other in itertools.permutations(found.values(), 2):
            best = min(SCHEMES, key=lambda name: other[name]["end"] or math.inf)
            known += near_the_best(run, best)
    print(f"by the end of the whole training with the other seed: {known} of {len(runs)}")


def hits(record, candidates, share):
    """Of how many runs the winner is near the best, within the run and in the one of the other seed."""
    same, other = [], []
    for runs in record.values():
        for one, two in itertools.product(runs, runs):
            (same if one == two else other).append(ratio(runs[one], runs[two], candidates, share))
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
    show_tried(record)
    each_alone = [(f"{name} alone", (name,)) for name in CANDIDATES]
    for label, candidates in (("the default", SCHEMES), ("with glorot_uniform", CANDIDATES)):
        for share in (SHARE, EARLY):
            (near, count), (far, others) = hits(record, candidates, share)
            print(
                f"{label}, 1/{share} of the steps: the winner is near the best in {near} of {count}, "
                f"with the other seed in {far} of {others}"
            )
    for label, (name,) in each_alone:
        runs = [run for found in record.values() for run in found.values()]
        best = [min(run[each]["end"] or math.inf for each in SCHEMES) for run in runs]
        near = sum(
            (run[name]["end"] or math.inf) <= NEAR * least for run, least in zip(runs, best, strict=True)
        )
        print(f"{label}: {near} of {len(runs)}")


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
