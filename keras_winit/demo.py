"""The difference it makes: one deep network on handwritten digits, from two initializations."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_winit.choose import for_activation, recommend
from keras_winit.schemes import Scheme
from keras_winit.support.printing import progress
from keras_winit.support.terminal import console, table

DEPTH, WIDTH, ACTIVATION = 20, 128, "relu"
EPOCHS = 12

# For the new process: only Keras and the import that registers the schemes.
_RELOAD = """
import sys, keras, keras_winit, numpy as np
model, inputs, outputs = sys.argv[1:]
np.save(outputs, keras.models.load_model(model).predict(np.load(inputs), verbose=0))
"""


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scikit-learn's 1,797 handwritten digits: training and validation inputs and labels."""
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 - an extra
        from sklearn.model_selection import train_test_split  # noqa: PLC0415
    except ImportError as error:
        raise ImportError(
            "The demo reads the digits that scikit-learn ships. Install it with "
            "pip install 'keras-winit[demo]'."
        ) from error
    inputs, labels = load_digits(return_X_y=True)
    train, held_out, *parts = train_test_split(
        inputs.astype("float32"), labels, test_size=397, random_state=0, stratify=labels
    )
    mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
    return (train - mean) / std, (held_out - mean) / std, *parts


def network(initializer: Any, seed: int) -> keras.Model:
    """A plain stack of Dense layers with this initializer."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((64,))])
    for _ in range(DEPTH):
        kernel = keras.initializers.get(initializer)
        if isinstance(kernel, Scheme):
            kernel = kernel.clone()
        model.add(keras.layers.Dense(WIDTH, ACTIVATION, kernel_initializer=kernel))
    model.add(keras.layers.Dense(10, "softmax"))
    model.compile(
        keras.optimizers.SGD(0.003, momentum=0.9),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # to compile takes longer than it saves
    )
    return model


def run(epochs: int = EPOCHS, seed: int = 0, save: str | None = None) -> int:
    """Train the network twice, compare, save the better one, and reload it in a new process.

    Returns:
        0 where the reloaded model predicts the same, else 1.
    """
    if epochs < 1:
        raise ValueError(f"`epochs` must be at least 1. Received: epochs={epochs}.")
    inputs, held_out, labels, held_out_labels = digits()
    screen = console()
    screen.print(
        f"The same {DEPTH}-layer {ACTIVATION} network, {WIDTH} units a layer, on {len(labels)} handwritten "
        f"digits for {epochs} epochs; accuracy on {len(held_out_labels)} others."
    )
    choices = {
        "Keras' default: glorot_uniform": "glorot_uniform",
        f"keras_winit: {recommend(ACTIVATION).name}": for_activation(ACTIVATION),
    }
    rows, results = [], []
    for title, initializer in choices.items():
        start = time.perf_counter()
        model = network(initializer, seed)
        with progress(title, epochs) as advance:
            callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_, step=advance: step())
            history = model.fit(
                inputs, labels, batch_size=64, epochs=epochs, verbose=0, callbacks=[callback]
            ).history
        accuracy = model.evaluate(held_out, held_out_labels, verbose=0)[1]
        seconds = time.perf_counter() - start
        rows.append((title, f"{history['loss'][-1]:.3f}", f"{accuracy:.1%}", f"{seconds:.1f} s"))
        results.append((accuracy, title, model))
    screen.print(table(("initializer", "last loss", "validation accuracy", "time"), rows))
    _, title, model = max(results, key=lambda result: result[0])
    difference = _reload_difference(model, held_out, save)
    screen.print(
        f"Saved the better one ({title}), reloaded it in a new process: its predictions "
        + (f"differ by up to {difference:g}." if difference else "are equal.")
    )
    if save:
        screen.print(f"It is in {save}.")
    return 0 if difference == 0 else 1


def _reload_difference(model: keras.Model, inputs: np.ndarray, save: str | None) -> float:
    """The most by which predictions of the model and of its file, in a new process, differ."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        path, given, answer = Path(save or place / "model.keras"), place / "inputs.npy", place / "outputs.npy"
        model.save(path)
        np.save(given, inputs)
        command: list[str | Path] = [sys.executable, "-c", _RELOAD, path, given, answer]
        finished = subprocess.run(command, check=False, capture_output=True, text=True)
        if finished.returncode:
            raise OSError(f"The new process could not reload {path}:\n{finished.stderr[-2000:]}")
        return float(np.abs(model.predict(inputs, verbose=0) - np.load(answer)).max())
