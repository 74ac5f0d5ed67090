"""How models of keras.applications train, drawn by Keras' default and by ours.

    python tests/benchmarks/architectures.py            # about 40 minutes on two cores, on TensorFlow
    python tests/benchmarks/architectures.py --show

The digits of scikit-learn, enlarged to 32×32 pixels in three channels: 1,392 to train on, batches of
16, SGD 0.01, three epochs (261 steps), three seeds, which also order the batches. Nothing clips the
gradients. Results go to results/architectures.json after each run; one that was cut off goes on.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from measure import about
from trainability import digits

import keras_winit as winit

RESULTS = Path(__file__).parent / "results"
MODELS = ("MobileNetV2", "EfficientNetB0", "ResNet50", "VGG19")
METHODS = {
    "Keras' default": lambda model, batch, seed: winit.initialize(model, "configured", seed=seed),
    "initialize": lambda model, batch, seed: winit.initialize(model, seed=seed),
    "calibrate": lambda model, batch, seed: winit.calibrate(model, batch, seed=seed, progress=False),
    "looks_linear": lambda model, batch, seed: winit.initialize(model, "looks_linear", seed=seed),
}
STYLES = {
    "Keras' default": ("tab:gray", ":"),
    "initialize": ("tab:orange", "--"),
    "calibrate": ("tab:blue", "-"),
    "looks_linear": ("tab:green", "-."),
}
SEEDS = (0, 1, 2)
EPOCHS = 3
BATCH = 16
LAST = 44  # steps: half an epoch


class Losses(keras.callbacks.Callback):
    """The loss of each batch; Keras reports the mean since the epoch began."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_train_batch_end(self, batch, logs=None):
        before = self.mean * batch if batch else 0.0
        self.mean = logs["loss"]
        self.losses.append(round(float(self.mean * (batch + 1) - before), 4))


def images():
    (x, y), (x_new, y_new) = digits()

    def enlarged(x):
        return np.repeat(np.repeat(x.reshape(-1, 8, 8, 1), 4, axis=1), 4, axis=2).repeat(3, axis=3)

    count = len(x) // BATCH * BATCH
    return (enlarged(x)[:count], y[:count]), (enlarged(x_new), y_new)


def measure(name, record, path):
    (x, y), (x_new, y_new) = images()
    options = {"include_preprocessing": False} if name.startswith("EfficientNetV2") else {}
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None, **options
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss)
    for method, draw in METHODS.items():  # Keras' default first, while it is what the layers hold
        for seed in SEEDS:
            # Where a normalization follows every kernel, looking linear is what "auto" does.
            skipped = method == "looks_linear" and name != "VGG19"
            if skipped or f"{name} {method} {seed}" in record["runs"]:
                continue
            start, watch = time.perf_counter(), Losses()
            draw(model, x[:32], seed)
            keras.utils.set_random_seed(seed)  # the order of the batches, and dropout
            model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[watch])
            logits = model.predict(x_new, batch_size=len(x_new), verbose=0)
            accuracy = round(float(np.mean(logits.argmax(-1) == y_new)), 4)
            record["runs"][f"{name} {method} {seed}"] = {"losses": watch.losses, "accuracy": accuracy}
            record["about"] = about("scikit-learn")
            path.write_text(json.dumps(record) + "\n")
            last = statistics.mean(watch.losses[-LAST:])
            print(
                f"{name} {method} {seed}: loss {last:.3f}, accuracy {accuracy:.3f}, "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )


def table(runs):
    print(f"mean loss of the last {LAST} steps, and the largest less the smallest of three seeds")
    for name in MODELS:
        for method in METHODS:
            found = [runs.get(f"{name} {method} {seed}") for seed in SEEDS]
            if all(found):
                losses = [statistics.mean(run["losses"][-LAST:]) for run in found]
                accuracy = statistics.mean(run["accuracy"] for run in found)
                print(
                    f"  {name:16}{method:16} {statistics.mean(losses):.3f} ± {max(losses) - min(losses):.3f}"
                    f"   accuracy {accuracy:.3f}"
                )


def picture(runs):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(MODELS), figsize=(13, 3.4), layout="constrained", sharey=True)
    for axis, name in zip(axes, MODELS, strict=True):
        for method, (colour, style) in STYLES.items():
            if f"{name} {method} 0" not in runs:
                continue
            curves = np.array([runs[f"{name} {method} {seed}"]["losses"] for seed in SEEDS])
            window = np.ones(10) / 10
            smooth = np.array([np.convolve(curve, window, mode="valid") for curve in curves])
            steps = np.arange(smooth.shape[1]) + 10
            axis.fill_between(steps, smooth.min(0), smooth.max(0), color=colour, alpha=0.2, linewidth=0)
            axis.plot(steps, smooth.mean(0), style, color=colour, label=method)
        axis.set(title=name, xlabel="step", ylim=(0, 3))
    axes[0].set_ylabel("loss (mean of ten steps)")
    axes[0].legend(fontsize=8)
    figure.suptitle("Digits at 32×32: three seeds, their mean and their range")
    figure.savefig(RESULTS / "architectures.png", dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--show", action="store_true", help="only show what was recorded")
    parser.add_argument("--model", choices=MODELS, action="append", help="only this; may be repeated")
    arguments = parser.parse_args()
    path = RESULTS / "architectures.json"
    record = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    for name in [] if arguments.show else arguments.model or MODELS:
        measure(name, record, path)
        keras.backend.clear_session()
    table(record["runs"])
    if all(f"{name} calibrate {SEEDS[-1]}" in record["runs"] for name in MODELS):
        picture(record["runs"])


if __name__ == "__main__":
    main()
