"""The command line: `python -m keras_winit COMMAND`, or `keras-winit COMMAND`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_winit
from keras_winit import demo
from keras_winit.files import (
    check_model_path,
    check_plot_path,
    import_module,
    one_line,
    read_arrays,
    read_model,
    write_model,
    written_whole,
)
from keras_winit.models.comparing.compare import SCHEMES
from keras_winit.schemes import scheme_class
from keras_winit.support.terminal import console, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 where what it checks does not hold, 2 for an error."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(options, "out", "") is None:
        options.out, rest = rest[0], []  # argparse does not take it behind an option
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status: int = options.run(options)
        _finish_printing()
        return status
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"keras-winit {options.command}: {one_line(error)}", file=sys.stderr)
        return 2


def _finish_printing() -> None:
    """Write out what was printed; where that fails, Python is not to try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(f"What it has to say cannot be written to standard output: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-winit", description=(keras_winit.__doc__ or "").partition("\n\nFunctions:")[0]
    )
    parser.add_argument("--version", action="version", version=keras_winit.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_lists(commands)

    initialize = _command(commands, "initialize", "draw every weight of a saved model anew", "model")
    initialize.add_argument("out", nargs="?", help="the file to write; may be the same")
    initialize.add_argument(
        "--scheme", default="auto", help="auto, configured, or the name of a recipe or of a scheme"
    )
    initialize.add_argument("--seed", type=int, help="the root seed; without it one is drawn and printed")
    initialize.add_argument("--dry-run", action="store_true", help="only print the plan")
    initialize.add_argument(
        "--overwrite", action="store_true", help="draw anew also what layers ask for on purpose"
    )
    initialize.set_defaults(run=_initialize)

    trace = _command(commands, "trace", "list the operations of one call of a saved model", "model")
    trace.add_argument("--json", action="store_true", help="print everything as JSON")
    trace.set_defaults(run=_trace)

    branches = _command(commands, "branches", "list the residual branches of a saved model", "model")
    branches.add_argument("--json", action="store_true", help="print everything as JSON")
    branches.set_defaults(run=_branches)

    portable = _command(commands, "portable", "a copy that loads without this package", "model", "out")
    portable.set_defaults(run=_portable)

    diagnose = _command(commands, "diagnose", "find what keeps a saved model from learning", "model")
    diagnose.add_argument("--data", metavar="X.npy", help="a batch for the model; default: a random probe")
    diagnose.add_argument("--labels", metavar="Y.npy", help="what the outputs are compared with")
    diagnose.add_argument("--loss", help="the name of a loss; default: the compiled one")
    diagnose.add_argument("--json", action="store_true", help="print everything as JSON")
    diagnose.add_argument("--plot", metavar="OUT.png", help="draw it: .png, .svg or .pdf")
    diagnose.set_defaults(run=_diagnose)

    calibrate = _command(
        commands, "calibrate", "scale every kernel of a saved model by one forward pass", "model", "out"
    )
    calibrate.add_argument("--data", metavar="X.npy", help="a batch for the model; default: a random probe")
    calibrate.add_argument("--scheme", default="orthogonal", help="what to draw first; keep: nothing")
    calibrate.add_argument("--labels", metavar="Y.npy", help="what the outputs are compared with")
    calibrate.add_argument("--loss", help="the name of a loss; default: the compiled one")
    calibrate.add_argument(
        "--target-std", type=float, help="default: 1 in chains of ten or more kernels, 0.35 in shorter ones"
    )
    calibrate.add_argument("--seed", type=int, help="the root seed; without it one is drawn and printed")
    calibrate.set_defaults(run=_calibrate)

    compare = _compare_parser(commands)
    for reads_a_model in (initialize, trace, branches, portable, diagnose, calibrate, compare):
        reads_a_model.add_argument(
            "--import",
            dest="modules",
            action="append",
            default=[],
            metavar="MODULE",
            help="import a module, or a .py file, that defines the model's own layers; may be repeated",
        )

    show = _command(commands, "demo", "the difference it makes, on handwritten digits, in a minute")
    show.add_argument("--epochs", type=int, default=demo.EPOCHS, help="default: %(default)s")
    show.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    show.add_argument("--save", metavar="FILE.keras", help="keep the better model in this file")
    show.set_defaults(run=lambda options: demo.run(options.epochs, options.seed, options.save))
    return parser


_FILES = {"model": "a .keras or .h5 file", "out": "the file to write; may be the same"}


def _command(commands: Any, name: str, says: str, *files: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=says, description=f"{says.capitalize()}."
    )
    for file in files:
        parser.add_argument(file, help=_FILES[file])
    return parser


def _compare_parser(commands: Any) -> argparse.ArgumentParser:
    compare = _command(commands, "compare", "find the start that a saved model learns from best")
    compare.add_argument("model", help="a .keras or .h5 file, of a compiled model")
    compare.add_argument("out", nargs="?", help="the file to write the model to, drawn with the winner")
    compare.add_argument("--data", metavar="X.npy", required=True, help="what to train on")
    compare.add_argument("--labels", metavar="Y.npy", help="what the outputs are compared with")
    compare.add_argument(
        "--schemes",
        type=_listed,
        default=SCHEMES,
        metavar="NAME,NAME",
        help=f"what initialize takes, keep or calibrate; default: {','.join(SCHEMES)}",
    )
    compare.add_argument("--steps", type=int, default=100, help="from each start; default: %(default)s")
    compare.add_argument(
        "--learning-rates", type=_rates, metavar="RATE,RATE", help="default: the optimizer's"
    )
    compare.add_argument("--batch-size", type=int, help="default: 32")
    compare.add_argument("--monitor", default="loss", help="what to compare by; default: %(default)s")
    compare.add_argument("--seed", type=int, help="the root seed; without it one is drawn and printed")
    compare.add_argument("--json", action="store_true", help="print everything as JSON")
    compare.add_argument("--plot", metavar="OUT.png", help="draw it: .png, .svg or .pdf")
    compare.set_defaults(run=_compare)
    return compare


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _listed(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"numbers with commas between, not {text!r}") from error


def _add_lists(commands: Any) -> None:
    """The commands that need no model."""
    schemes = _command(commands, "schemes", "list every scheme with its formula and source")
    schemes.set_defaults(run=_schemes)

    listed = _command(commands, "recipes", "list every recipe for a whole model")
    listed.set_defaults(run=_recipes)

    recommend = _command(commands, "recommend", "say which scheme suits an activation, and why")
    recommend.add_argument("activation", help="the name of a Keras activation, such as gelu")
    recommend.add_argument("--distribution", choices=["uniform", "normal"], help="default: as published")
    recommend.add_argument("--method", choices=["published", "exact"], default="published")
    recommend.set_defaults(run=_recommend)


def _schemes(_: argparse.Namespace) -> int:
    rows = []
    for name in keras_winit.names():
        scheme = scheme_class(name)
        rows.append((f"winit>{name}", scheme.formula, scheme.source, ", ".join(scheme.aliases)))
    console().print(table(("scheme", "draws", "source", "aliases"), rows))
    return 0


def _recipes(_: argparse.Namespace) -> int:
    print(keras_winit.recipes())
    return 0


def _branches(options: argparse.Namespace) -> int:
    found = keras_winit.branches(_model(options))
    print(json.dumps(found.to_dict(), indent=1) if options.json else found)
    return 0


def _trace(options: argparse.Namespace) -> int:
    found = keras_winit.trace(_model(options))
    print(json.dumps(found.to_dict(), indent=2) if options.json else found)
    return 0


def _model(options: argparse.Namespace) -> Any:
    """The model in the file that a command names, with the modules that its classes need."""
    for module in options.modules:
        import_module(module)
    return read_model(options.model)


def _recommend(options: argparse.Namespace) -> int:
    print(keras_winit.recommend(options.activation, distribution=options.distribution, method=options.method))
    return 0


def _initialize(options: argparse.Namespace) -> int:
    if options.out is None and not options.dry_run:
        raise ValueError("Say which file to write, which may be the same, or --dry-run to write none.")
    if options.out is not None:
        check_model_path(options.out)
    model = _model(options)
    plan = keras_winit.initialize(
        model, options.scheme, seed=options.seed, dry_run=options.dry_run, overwrite=options.overwrite
    )
    if not options.dry_run:
        write_model(model, options.out)
    print(plan)
    return 0


def _portable(options: argparse.Namespace) -> int:
    check_model_path(options.out)
    write_model(keras_winit.portable(_model(options)), options.out)
    print(f"{options.out} loads without keras_winit.")
    return 0


def _diagnose(options: argparse.Namespace) -> int:
    check_plot_path(options.plot)
    model = _model(options)
    data, labels = read_arrays(options.data), read_arrays(options.labels)
    report = keras_winit.diagnose(model, data, labels, options.loss)
    if options.plot:
        with written_whole(Path(options.plot)) as name:
            report.plot().savefig(name, dpi=120)
    print(json.dumps(report.to_dict(), indent=1) if options.json else report)
    return 0 if report.ok else 1


def _calibrate(options: argparse.Namespace) -> int:
    check_model_path(options.out)
    model = _model(options)
    calibration = keras_winit.calibrate(
        model,
        read_arrays(options.data),
        read_arrays(options.labels),
        options.loss,
        target_std=options.target_std,
        scheme=options.scheme,
        seed=options.seed,
    )
    write_model(model, options.out)
    print(calibration)
    return 0


def _compare(options: argparse.Namespace) -> int:
    check_plot_path(options.plot)
    if options.out is not None:
        check_model_path(options.out)
    model = _model(options)
    found = keras_winit.compare(
        model,
        *(read_arrays(options.data), read_arrays(options.labels), options.schemes, options.steps),
        learning_rates=options.learning_rates,
        batch_size=options.batch_size,
        monitor=options.monitor,
        seed=options.seed,
        apply=options.out is not None,
    )
    if options.plot:
        with written_whole(Path(options.plot)) as name:
            found.plot().savefig(name, dpi=120)
    if options.out is not None and found.winner is not None:
        write_model(model, options.out)
    print(json.dumps(found.to_dict(), indent=1) if options.json else found)
    return 0 if found.winner is not None else 1


if __name__ == "__main__":
    sys.exit(main())
