"""Scale every kernel of a model by what one pass measures."""

from typing import Any

import keras

from keras_winit.models.calibrating.calibration import Calibration
from keras_winit.models.calibrating.centring import CENTRES, Centring
from keras_winit.models.calibrating.one_pass import Pass
from keras_winit.models.calibrating.targets import Answers, Targets
from keras_winit.models.initializing.initialize import Drawing, root_seed
from keras_winit.models.initializing.plan import rules_of
from keras_winit.models.running.batch import MOST_SAMPLES, batch_for
from keras_winit.models.running.undo import Undo, undo_on_failure
from keras_winit.models.tracing.structure import check_built, check_callable
from keras_winit.support.checks import as_bool, as_float, one_of
from keras_winit.support.losses import check_there_is_one


def calibrate(
    model: keras.Model,
    data: Any = None,
    labels: Any = None,
    loss: Any = None,
    *,
    target_std: float | None = None,
    scheme: Any = "orthogonal",
    center: str = "auto",
    samples: int | None = MOST_SAMPLES,
    seed: int | None = None,
    progress: bool = True,
) -> Calibration:
    """Give the pre-activations of all layers the deviation that they are to have, in one forward pass.

    The weights are drawn as `initialize` draws them. Then a batch goes through the model: when a layer is
    reached, the deviation of what it computes before its activation is measured, its kernel divided by it,
    and the pass goes on with the output of the new kernel. The input kernels of recurrent layers are scaled
    gate by gate; their recurrent kernels are left as drawn. Layers called more than once count at their
    first call. Seeds and losses of the model stay as they were, and where anything fails, the model is as
    it was.

    The last kernels of L residual branches, four or more, get 1/√L times the deviation, or 1/L where the
    sum is normalized; with eight or more, the γ of a normalization that ends one is 0.3, as in `initialize`.
    Output layers, "answers" in the table, get one so small that the first loss is near that of guessing;
    their biases take out the batch's mean, or, with labels, become the best constant. Embeddings keep the
    size that their layers ask for, or another as in `initialize`. A kernel that would have to be ten times as
    large as its fans say, and does not read the data, is left alone, and its row says what makes the signal
    so small.

    Where a normalization divides by a kernel's size, that size changes no output, but how fast the kernel
    learns: a step turns a large one less. Such a kernel keeps the size that it has. A batch normalization
    behind it is told of it, as is any that has seen no data yet: its moving mean becomes that of the batch,
    and its moving variance takes one factor, so that the signal is centred and as large in use as in
    training. In models with twenty or more SiLU, GELU or the like directly behind batch
    normalizations, which would scatter a centred signal's samples, moving means stay, unless `center`
    is "bias". Other statistics stay as they were.

    Args:
        model: a built model of any kind that `initialize` takes.
        data: a batch as the model takes it, an array or a nest of arrays; or a tf.data.Dataset, a
            keras.utils.PyDataset or a torch DataLoader, whose first batch is used. None stands for a probe:
            32 samples of standard normal numbers, which an Embedding reads as random tokens and layers that
            only rescale data hand on.
        labels: what the outputs are compared with, an array or a nest of arrays; a data set brings its own.
            With them the model's answers start at the best constant by the loss.
        loss: a name, a function or a `keras.losses.Loss`; None takes the compiled one.
        target_std: the deviation to reach, a positive number. None is for one in chains of ten or more
            kernels with nothing that normalizes or adds between. In shorter ones, which learn faster from
            smaller kernels, it is for 0.35, and a kernel that does not read the data is made no larger
            than its fans say, unless it is recurrent or centred: there signals may end smaller. Before
            sigmoid, hard_sigmoid and softplus, most of which is constant, it is for one in any chain.
            What "looks_linear" draws is to have the deviation that it is drawn for.
            Ends of branches get a share, and answers have a size of their own.
        scheme: what to draw from first, as `initialize` takes it; "keep" rescales the weights as they are.
            What a layer asks for on purpose keeps its size, and its bias. A mapping is about what it names:
            all else is neither drawn nor rescaled, and no statistic of it changes.
        center: what to do about the part of a signal that is the same for all samples. It grows
            from layer to layer, until in a few layers of sigmoid nothing else is left:

            - "bias": each unit is moved, by its bias, to where its activation is most nearly linear:
              a mean of zero before tanh and sigmoid, of one deviation before ReLU and its kin; a
              batch normalization that follows at once centres by itself;
            - "weights": from each unit's incoming weights the share of their mean is taken away that
              lets both signals and gradients keep their scale;
            - "auto": "bias" for activations most of whose power is a constant (sigmoid, softplus), and
              in chains of twenty or more also for GELU, SiLU and Mish. A chain is of kernels with only
              activations, pooling and reshaping in between; they have to be drawn anew, and not by
              "looks_linear", which needs no centring. Elsewhere "none";
            - "none": nothing.

            Centring lets plain networks of forty layers train with any activation. The signal that
            then reaches all layers wants gradients to be clipped, or a smaller learning rate.
        samples: the most samples that are used, spread over all that there are. None hands the batch on as it
            is, its arrays of any lengths, as a model on graphs takes it.
        seed: the root seed, an integer; None draws one, and the result has it.
        progress: whether to show a bar in a terminal.

    Returns:
        A `Calibration`: what was measured, the factor for each kernel, and what was left alone and
        why. Printing it shows a table; `plot()` draws before and after.

    Raises:
        TypeError, ValueError: for an unbuilt model, bad data, or data that the model cannot take.

    Example:

    >>> model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(40, "relu"), keras.layers.Dense(3)])
    >>> calibration = calibrate(model, seed=0)
    >>> len(calibration.calibrated), len(calibration.skipped)
    (2, 0)

    Source: D. Mishkin, J. Matas 2015, "All you need is a good init", arXiv:1511.06422, which takes
    several passes for each layer. Centring by biases follows P. Krähenbühl et al. 2015,
    arXiv:1511.06856, and by weights L. Huang et al. 2017, "Centered weight normalization", ICCV.
    """
    as_bool("progress", progress)
    with undo_on_failure(in_memory=True) as undo:
        return calibrate_within(
            undo,
            *(model, data, labels, loss),
            target_std=target_std,
            scheme=scheme,
            center=center,
            samples=samples,
            seed=seed,
            show=progress,
        )


def calibrate_within(
    undo: Undo,
    model: keras.Model,
    data: Any = None,
    labels: Any = None,
    loss: Any = None,
    *,
    target_std: float | None = None,
    scheme: Any = "orthogonal",
    center: str = "auto",
    samples: int | None = MOST_SAMPLES,
    seed: int | None = None,
    show: bool = True,
    resets: bool = True,
) -> Calibration:
    """Calibrate, with changes noted in `undo`. Without `resets` the optimizer's state stays."""
    target = None if target_std is None else as_float("target_std", target_std, positive=True)
    one_of("center", center, CENTRES)
    check_built(model)
    check_callable(model)
    root = root_seed(seed)
    rules_of(scheme)  # a wrong argument is told of before wrong data
    batch = batch_for(model, data, labels, seed=root, samples=samples)
    if labels is not None:
        check_there_is_one(model, loss)
    elif loss is not None and batch.labels is None:
        raise ValueError("A `loss` needs `labels` to compare the outputs with. Pass them too.")
    drawing = Drawing(model, scheme, root, batch.inputs, measured=True)
    drawn = drawing.carry_out(undo, show=show)
    left = {*drawing.asked, *drawing.untouched}
    answers = Answers(drawing.anatomy, left, batch.labels, loss, strict=labels is not None)
    targets = Targets(drawing.anatomy, target, answers, drawing.drawn)
    centring = Centring(center, drawing.anatomy, drawn=drawing.drawn, left=left, target=targets)
    measured = Pass(drawing, targets, centring=centring, answers=answers, undo=undo)
    measured.run(model, batch, show=show)
    rescaled = any(row.factor is not None for row in measured.rows)
    resets = resets and (drawn or rescaled or bool(measured.statistics))
    if resets:
        drawing.reset_optimizer(undo)
    return Calibration(
        tuple(measured.rows),
        target,
        drawing.seed,
        str(batch),
        drawing.note(resets=resets),
        tuple(measured.statistics),
        tuple(slot.path for slot in drawing.slots if slot.unseen),
        drawing.unmatched,
    )
