"""What mirroring costs: how fast training tells twins apart, and what shallow, wide networks reach.

    KERAS_BACKEND=jax python tests/benchmarks/twins.py          # writes results/twins.json

Half of the units of a mirrored network are the negatives of the other half at the start. Networks of
one to three hidden layers of 512 units, on the digits, SGD 0.01 with momentum 0.9, batches of 64, 30
epochs, five seeds; what is compared is drawn by "auto" and by "looks_linear".
"""

import json
import statistics
from pathlib import Path

import keras
import numpy as np
from keras import layers
from measure import about
from trainability import digits

import keras_winit as winit

RESULTS = Path(__file__).parent / "results"
WIDTH = 512
SEEDS = range(5)
EPOCHS = 30


def apart(kernel):
    """|w + w′|²/(|w|² + |w′|²) of twins' weights: 0 where they are opposite, 1 where they are unrelated."""
    first, second = kernel[:, : kernel.shape[1] // 2], kernel[:, kernel.shape[1] // 2 :]
    return float(np.sum((first + second) ** 2) / np.sum(first**2 + second**2))


def train(activation, depth, scheme, seed, data):
    (x, y), (x_new, y_new) = data
    stack = [layers.Dense(WIDTH, activation) for _ in range(depth)]
    model = keras.Sequential([keras.Input((64,)), *stack, layers.Dense(10)])
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    winit.initialize(model, scheme, seed=seed)
    keras.utils.set_random_seed(seed)
    distances, outputs, losses = [], [], []
    hidden = keras.Model(model.inputs, model.layers[-2].output)
    for _ in range(EPOCHS):
        history = model.fit(x, y, batch_size=64, epochs=1, verbose=0)
        losses.append(history.history["loss"][0])
        distances.append(apart(np.asarray(model.layers[0].kernel)))
        answers = np.asarray(hidden.predict(x_new, verbose=0, batch_size=len(x_new)), "float64")
        first, second = answers[:, : WIDTH // 2], answers[:, WIDTH // 2 :]
        centred = [part - part.mean(0) for part in (first, second)]
        scale = np.sqrt((centred[0] ** 2).sum(0) * (centred[1] ** 2).sum(0)) + 1e-12
        outputs.append(float(np.mean((centred[0] * centred[1]).sum(0) / scale)))
    logits = model.predict(x_new, verbose=0, batch_size=len(x_new))
    keras.backend.clear_session()
    return {
        "accuracy": float(np.mean(logits.argmax(-1) == y_new)),
        "apart": distances,
        "correlation": outputs,
        "loss": losses,
    }


def main():
    data, found = digits(), {}
    for activation in ("relu", "gelu", "sigmoid"):
        for depth in (1, 2, 3):
            for scheme in ("auto", "looks_linear"):
                runs = [train(activation, depth, scheme, seed, data) for seed in SEEDS]
                key = f"{activation} {depth} {scheme}"
                found[key] = {name: np.round([run[name] for run in runs], 5).tolist() for name in runs[0]}
                scores = found[key]["accuracy"]
                last = statistics.mean(run["loss"][-1] for run in runs)
                epochs = [float(np.mean([run["apart"][e] for run in runs])) for e in (0, 4, 29)]
                print(
                    f"{key:24} accuracy {statistics.mean(scores):.4f} ± {statistics.stdev(scores):.4f}  "
                    f"loss {last:.4f}  twins apart after 1, 5, 30 epochs {np.round(epochs, 4)}  "
                    f"correlation {np.mean([run['correlation'][-1] for run in runs]):.3f}",
                    flush=True,
                )
    (RESULTS / "twins.json").write_text(json.dumps({**about("scikit-learn"), "runs": found}) + "\n")


if __name__ == "__main__":
    main()
