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
    for name, (says, takes) in _COMMANDS.items():
        command = commands.add_parser(name, help=says, description=f"{says.capitalize()}.")
        for argument in takes.split():
            own = f"{name} {argument}"
            command.add_argument(argument, **_ARGUMENTS[own if own in _ARGUMENTS else argument])
    return parser


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _rates(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _listed(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"numbers with commas between, not {text!r}") from error


# What each command does, and takes.
_COMMANDS = {
    "schemes": ("list every scheme with its formula and source", ""),
    "recipes": ("list every recipe for a whole model", ""),
    "recommend": (
        "say which scheme suits an activation, and why",
        "activation --distribution --method",
    ),
    "initialize": (
        "draw every weight of a saved model anew",
        "model out --scheme --seed --dry-run --overwrite --import",
    ),
    "trace": ("list the operations of one call of a saved model", "model --json --import"),
    "branches": ("list the residual branches of a saved model", "model --json --import"),
    "portable": ("a copy that loads without this package", "model out --import"),
    "diagnose": (
        "find what keeps a saved model from learning",
        "model --data --labels --loss --json --plot --import",
    ),
    "calibrate": (
        "scale every kernel of a saved model by one forward pass",
        "model out --data --scheme --labels --loss --target-std --seed --import",
    ),
    "compare": (
        "find the start that a saved model learns from best",
        "model out --data --labels --schemes --steps --learning-rates --batch-size --monitor --seed --json "
        "--plot --import",
    ),
    "demo": ("the difference it makes, on handwritten digits, in a minute", "--epochs --seed --save"),
}

# Arguments by name, or by command and name where one is a command's own.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "activation": {"help": "the name of a Keras activation, such as gelu"},
    "--distribution": {"choices": ["uniform", "normal"], "help": "default: as published"},
    "--method": {"choices": ["published", "exact"], "default": "published"},
    "model": {"help": "a .keras or .h5 file"},
    "compare model": {"help": "a .keras or .h5 file, of a compiled model"},
    "out": {"help": "the file to write; may be the same"},
    "initialize out": {"nargs": "?", "help": "the file to write; may be the same"},
    "compare out": {"nargs": "?", "help": "the file to write the model to, drawn with the winner"},
    "initialize --scheme": {
        "default": "auto",
        "help": "auto, configured, or the name of a recipe or of a scheme",
    },
    "calibrate --scheme": {"default": "orthogonal", "help": "what to draw first; keep: nothing"},
    "--dry-run": {"action": "store_true", "help": "only print the plan"},
    "--overwrite": {"action": "store_true", "help": "draw anew also what layers ask for on purpose"},
    "--data": {"metavar": "X.npy", "help": "a batch for the model; default: a random probe"},
    "compare --data": {"metavar": "X.npy", "required": True, "help": "what to train on"},
    "--labels": {"metavar": "Y.npy", "help": "what the outputs are compared with"},
    "--loss": {"help": "the name of a loss; default: the compiled one"},
    "--target-std": {
        "type": float,
        "help": "default: 1 in chains of ten or more kernels, 0.35 in shorter ones",
    },
    "--schemes": {
        "type": _listed,
        "default": SCHEMES,
        "metavar": "NAME,NAME",
        "help": f"what initialize takes, keep or calibrate; default: {','.join(SCHEMES)}",
    },
    "--steps": {"type": int, "default": 100, "help": "from each start; default: %(default)s"},
    "--learning-rates": {"type": _rates, "metavar": "RATE,RATE", "help": "default: the optimizer's"},
    "--batch-size": {"type": int, "help": "default: 32"},
    "--monitor": {"default": "loss", "help": "what to compare by; default: %(default)s"},
    "--seed": {"type": int, "help": "the root seed; without it one is drawn and printed"},
    "demo --seed": {"type": int, "default": 0, "help": "default: %(default)s"},
    "--json": {"action": "store_true", "help": "print everything as JSON"},
    "--plot": {"metavar": "OUT.png", "help": "draw it: .png, .svg or .pdf"},
    "--import": {
        "dest": "modules",
        "action": "append",
        "default": [],
        "metavar": "MODULE",
        "help": "import a module, or a .py file, that defines the model's own layers; may be repeated",
    },
    "--epochs": {"type": int, "default": demo.EPOCHS, "help": "default: %(default)s"},
    "--save": {"metavar": "FILE.keras", "help": "keep the better model in this file"},
}
