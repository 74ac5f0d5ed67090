"""What each command of the command line takes."""

import argparse
from collections.abc import Sequence
from typing import Any

import keras_winit
from keras_winit import demo
from keras_winit.models.comparing.compare import SCHEMES


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command and its options; where they are wrong, the process ends with exit code 2."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    rest = rest[1:] if rest[:1] == ["--"] else rest
    if len(rest) == 1 and not rest[0].startswith("-") and getattr(options, "out", "") is None:
        options.out, rest = rest[0], []  # argparse does not take it behind an option
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return options


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
    _add(initialize, "--seed")
    initialize.add_argument("--dry-run", action="store_true", help="only print the plan")
    initialize.add_argument(
        "--overwrite", action="store_true", help="draw anew also what layers ask for on purpose"
    )

    trace = _command(commands, "trace", "list the operations of one call of a saved model", "model")
    _add(trace, "--json")

    branches = _command(commands, "branches", "list the residual branches of a saved model", "model")
    _add(branches, "--json")

    portable = _command(commands, "portable", "a copy that loads without this package", "model", "out")

    diagnose = _command(commands, "diagnose", "find what keeps a saved model from learning", "model")
    _add(diagnose, "--data", "--labels", "--loss", "--json", "--plot")

    calibrate = _command(
        commands, "calibrate", "scale every kernel of a saved model by one forward pass", "model", "out"
    )
    _add(calibrate, "--data")
    calibrate.add_argument("--scheme", default="orthogonal", help="what to draw first; keep: nothing")
    _add(calibrate, "--labels", "--loss")
    calibrate.add_argument(
        "--target-std", type=float, help="default: 1 in chains of ten or more kernels, 0.35 in shorter ones"
    )
    _add(calibrate, "--seed")

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
    return parser


# What several commands have alike.
_OPTIONS: dict[str, dict[str, Any]] = {
    "--data": {"metavar": "X.npy", "help": "a batch for the model; default: a random probe"},
    "--labels": {"metavar": "Y.npy", "help": "what the outputs are compared with"},
    "--loss": {"help": "the name of a loss; default: the compiled one"},
    "--seed": {"type": int, "help": "the root seed; without it one is drawn and printed"},
    "--json": {"action": "store_true", "help": "print everything as JSON"},
    "--plot": {"metavar": "OUT.png", "help": "draw it: .png, .svg or .pdf"},
}
_FILES = {"model": "a .keras or .h5 file", "out": "the file to write; may be the same"}


def _command(commands: Any, name: str, says: str, *files: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=says, description=f"{says.capitalize()}."
    )
    for file in files:
        parser.add_argument(file, help=_FILES[file])
    return parser


def _add(parser: argparse.ArgumentParser, *options: str) -> None:
    for option in options:
        parser.add_argument(option, **_OPTIONS[option])


def _compare_parser(commands: Any) -> argparse.ArgumentParser:
    compare = _command(commands, "compare", "find the start that a saved model learns from best")
    compare.add_argument("model", help="a .keras or .h5 file, of a compiled model")
    compare.add_argument("out", nargs="?", help="the file to write the model to, drawn with the winner")
    compare.add_argument("--data", metavar="X.npy", required=True, help="what to train on")
    _add(compare, "--labels")
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
    _add(compare, "--seed", "--json", "--plot")
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
    _command(commands, "schemes", "list every scheme with its formula and source")

    _command(commands, "recipes", "list every recipe for a whole model")

    recommend = _command(commands, "recommend", "say which scheme suits an activation, and why")
    recommend.add_argument("activation", help="the name of a Keras activation, such as gelu")
    recommend.add_argument("--distribution", choices=["uniform", "normal"], help="default: as published")
    recommend.add_argument("--method", choices=["published", "exact"], default="published")
