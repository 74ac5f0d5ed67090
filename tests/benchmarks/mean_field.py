"""What theory says of 100 layers, and what networks of width 64 and 512 do: plain and mirrored.

    python tests/benchmarks/mean_field.py            # writes results/mean_field.json and a picture for each
    python tests/benchmarks/mean_field.py --show     # draws the pictures again

With pre-activations u ~ N(0, q) and weights of variance s²/fan_in, infinitely wide layers give

    variance     q ← s²·E[φ(√q·z)²]
    correlation  c ← s²·E[φ(u₁)·φ(u₂)]/q, for two inputs of correlation c
    gradient     the power of ∂/∂u grows by s²·E[φ′(√q·z)²] with each layer that it goes back

with φ = f for a plain network and φ(u) = f(u) − f(−u) for a mirrored one. (Poole et al. 2016,
arXiv:1606.05340; Schoenholz et al. 2016, arXiv:1611.01232.) Plain here means normal weights with the
exact gain of the activation; mirrored, what `initialize(model, "looks_linear")` draws for 100 layers.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
from keras import ops
from measure import about
from trainability import ACTIVATIONS

import keras_winit as winit
from keras_winit.theory.activations import resolve
from keras_winit.theory.gains import grid
from keras_winit.theory.linearity import is_odd, linear_variance, power

RESULTS = Path(__file__).parent / "results"
DEPTH = 100
WIDTHS = (64, 512)
SAMPLES = 500
START = 0.5  # the correlation of the two inputs
SEEDS = 3
POINTS, WEIGHTS = np.polynomial.hermite_e.hermegauss(101)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
STEP = 2.0**-10


def values(activation, x):
    result = resolve(activation).function(ops.convert_to_tensor(x.astype("float32").reshape(1, -1)))
    return np.asarray(ops.convert_to_numpy(result), "float64").reshape(x.shape)


def slopes(activation, x):
    return (values(activation, x + STEP) - values(activation, x - STEP)) / (2 * STEP)


class Scheme:
    """A plain or a mirrored network of one activation: its maps, and its kernels."""

    def __init__(self, activation, *, mirrored):
        self.activation = activation
        # An odd activation needs no twins: the two differ by the variance alone.
        self.twins = mirrored and not is_odd(activation)
        self.variance = linear_variance(activation, DEPTH) if mirrored else 1.0
        self.square = self.variance / power(activation, self.variance, twins=self.twins)
        self.mirrored = mirrored

    def phi(self, x):
        return values(self.activation, x) - (values(self.activation, -x) if self.twins else 0)

    def slope(self, x):
        return slopes(self.activation, x) + (slopes(self.activation, -x) if self.twins else 0)

    def predicted(self):
        q, c, variances, correlations, growths = self.variance, START, [], [], []
        first, second = np.meshgrid(POINTS, POINTS, indexing="ij")
        fine, fine_weights = grid(steps_per_unit=512)  # Gauss-Hermite points are too few for a kink
        for _ in range(DEPTH):
            variances.append(q)
            correlations.append(c)
            growths.append(self.square * fine_weights @ self.slope(math.sqrt(q) * fine) ** 2)
            after = self.square * fine_weights @ self.phi(math.sqrt(q) * fine) ** 2
            other = c * first + math.sqrt(max(0.0, 1 - c * c)) * second
            both = self.phi(math.sqrt(q) * first) * self.phi(math.sqrt(q) * other)
            q, c = after, min(1.0, self.square * WEIGHTS @ both @ WEIGHTS / after)
        gradients = np.cumprod([1.0, *growths[:0:-1]])[::-1]
        return {"variance": variances, "correlation": correlations, "gradient": gradients.tolist()}

    def kernel(self, width, seed):
        if not self.mirrored:
            std = math.sqrt(self.square / width)
            return np.random.default_rng(seed).normal(0, std, (width, width))
        scheme = winit.LooksLinear(
            self.activation, "both" if self.twins else "none", input_variance=self.variance, seed=seed
        )
        return np.asarray(ops.convert_to_numpy(scheme((width, width))), "float64")

    def measured(self, width, seed):
        """The same of a network: two sets of inputs with the correlation, and a random gradient."""
        rng = np.random.default_rng([seed, width])
        half = width // 2 if self.twins else width
        first = rng.standard_normal((SAMPLES, half)) * math.sqrt(self.variance)
        other = rng.standard_normal((SAMPLES, half)) * math.sqrt(self.variance)
        second = START * first + math.sqrt(1 - START**2) * other
        if self.twins:
            first, second = (np.hstack([x, -x]) for x in (first, second))
        kernels, seen, variances, correlations = [], [], [], []
        for layer in range(DEPTH):
            variances.append(float(np.mean(first**2)))
            cosines = (
                np.sum(first * second, 1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
            )
            correlations.append(float(np.mean(cosines)))
            seen.append(first)
            kernels.append(self.kernel(width, seed * DEPTH + layer))
            first, second = (values(self.activation, x) @ kernels[-1] for x in (first, second))
        gradient = rng.standard_normal((SAMPLES, width))
        if self.twins:  # what the mirrored reader behind sends back
            gradient[:, half:] = -gradient[:, :half]
        start, powers = None, []
        for layer in reversed(range(DEPTH)):
            # Of a unit and its twin, the gradient of the one number that both are made of.
            own = gradient[:, :half] - gradient[:, half:] if self.twins else gradient
            start = start or float(np.mean(own**2))
            powers.append(float(np.mean(own**2)) / start)
            if layer:
                gradient = (gradient @ kernels[layer - 1].T) * slopes(self.activation, seen[layer - 1])
        return {"variance": variances, "correlation": correlations, "gradient": powers[::-1]}


def main():
    path = RESULTS / "mean_field.json"
    if "--show" in sys.argv:
        for activation, schemes in json.loads(path.read_text("utf-8"))["activations"].items():
            print(activation, json.dumps(ends(schemes)))
            picture(activation, schemes)
        return
    found = {}
    for activation in ACTIVATIONS:
        found[activation] = {}
        for name, mirrored in (("plain", False), ("mirrored", True)):
            scheme = Scheme(activation, mirrored=mirrored)
            networks = {}
            for width in WIDTHS:
                runs = [scheme.measured(width, seed) for seed in range(SEEDS)]
                networks[str(width)] = {
                    key: np.exp(np.mean(np.log([run[key] for run in runs]), axis=0)).tolist()
                    if key != "correlation"
                    else np.mean([run[key] for run in runs], axis=0).tolist()
                    for key in runs[0]
                }
            found[activation][name] = {"theory": scheme.predicted(), **networks}
        print(activation, json.dumps(ends(found[activation])), flush=True)
        picture(activation, found[activation])
    rounded = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.4g}"))
    path.write_text(json.dumps({**about(), "activations": rounded}) + "\n")


def ends(schemes):
    """The figures at the far end: variance and correlation at layer 100, gradient at layer 1."""
    places = {"variance": -1, "correlation": -1, "gradient": 0}
    return {
        name: {
            who: [float(f"{run[key][place]:.3g}") for key, place in places.items()]
            for who, run in runs.items()
        }
        for name, runs in schemes.items()
    }


def picture(activation, schemes):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    titles = {
        "variance": "variance of the pre-activations",
        "gradient": "power of the gradient,\nagainst that at layer 100",
        "correlation": "correlation of two inputs\nthat start at 0.5",
    }
    layers = np.arange(1, DEPTH + 1)
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name, colour, dashes in (("plain", "tab:orange", "--"), ("mirrored", "tab:blue", "-")):
            runs = schemes[name]
            axis.plot(layers, runs["theory"][key], dashes, color=colour, label=f"{name}, theory")
            for width, marker in zip(WIDTHS, "xo", strict=True):
                axis.plot(
                    *(layers, runs[str(width)][key], marker),
                    color=colour,
                    markevery=6,
                    markersize=4,
                    fillstyle="none",
                    label=f"{name}, width {width}",
                )
        if key == "correlation":
            axis.set_ylim(-0.05, 1.05)
        else:
            axis.set_yscale("log")
            low, high = axis.get_ylim()
            axis.set_ylim(max(min(low, 0.1), 1e-12), min(max(high, 10), 1e12))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("layer")
    axes[2].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(activation)
    figure.savefig(RESULTS / f"mean_field_{activation}.png", dpi=75)
    plt.close(figure)


if __name__ == "__main__":
    main()
