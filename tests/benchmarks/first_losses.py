"""How near the first loss is to that of the best constant, for outputs of many kinds.

    python tests/benchmarks/first_losses.py             # two minutes on two cores, on TensorFlow
    python tests/benchmarks/first_losses.py --show

The models and data of tests/test_answers.py; ratios of the first loss to that of the best constant, the
median of five seeds. "Knowing nothing" is a kernel and a bias of zero for the answer: what no draw can go
below on average that has seen no labels. Results go to results/first_losses.json.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import keras
from measure import about

import keras_winit as winit
from keras_winit.models.anatomy.anatomy import Anatomy
from keras_winit.models.anatomy.following import output_kernels

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_answers import CASES, case, first_loss

RESULTS = Path(__file__).parent / "results" / "first_losses.json"
SEEDS = range(5)


def know_nothing(model, x, y, seed):
    """Let all answers be what their activations make of zero."""
    winit.initialize(model, "configured", seed=seed)
    for kernel in output_kernels(Anatomy(model)):
        for variable in kernel.slot.layer.weights:
            variable.assign(0 * variable)


METHODS = {
    "knowing nothing": know_nothing,
    "Keras' default": lambda model, x, y, seed: winit.initialize(model, "configured", seed=seed),
    "initialize": lambda model, x, y, seed: winit.initialize(model, seed=seed),
    "calibrate": lambda model, x, y, seed: winit.calibrate(model, x, seed=seed, progress=False),
    "calibrate with labels": lambda model, x, y, seed: winit.calibrate(
        model, x, y, seed=seed, progress=False
    ),
}


def measure(name):
    """The ratio for each method; Keras' default first, while it is what the layers hold."""
    keras.backend.clear_session()
    model, x, y, guess = case(name)
    found = {}
    for method, draw in METHODS.items():
        ratios = []
        for seed in SEEDS:
            draw(model, x, y, seed)
            ratios.append(first_loss(model, x, y) / guess)
        found[method] = round(statistics.median(ratios), 3)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--show", action="store_true", help="only show what was recorded")
    if not parser.parse_args().show:
        RESULTS.write_text(
            json.dumps({"ratios": {name: measure(name) for name in CASES}, "about": about()}) + "\n"
        )
    for name, ratios in json.loads(RESULTS.read_text("utf-8"))["ratios"].items():
        print(f"{name:28}" + "   ".join(f"{method} {ratio:.2f}" for method, ratio in ratios.items()))


if __name__ == "__main__":
    main()
