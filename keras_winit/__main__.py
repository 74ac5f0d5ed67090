"""The command line: `python -m keras_winit COMMAND`, or `keras-winit COMMAND`."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras_winit
from keras_winit import demo, files
from keras_winit.options import read_options
from keras_winit.schemes import scheme_class
from keras_winit.support.terminal import console, table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 where what it checks does not hold, 2 for an error."""
    options = read_options(arguments)
    try:
        status = _COMMANDS[options.command](options)
        _finish_printing()
        return status
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"keras-winit {options.command}: {files.one_line(error)}", file=sys.stderr)
        return 2


def _finish_printing() -> None:
    """Write out what was printed; if that fails, Python is not to try again at its end."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OSError(f"What it has to say cannot be written to standard output: {error}") from error


def _schemes(_: argparse.Namespace) -> int:
    schemes = [(name, scheme_class(name)) for name in keras_winit.names()]
    rows = [(f"winit>{name}", each.formula, each.source, ", ".join(each.aliases)) for name, each in schemes]
    console().print(table(("scheme", "draws", "source", "aliases"), rows))
    return 0


def _recipes(_: argparse.Namespace) -> int:
    print(keras_winit.recipes())
    return 0


def _branches(options: argparse.Namespace) -> int:
    _print(keras_winit.branches(_model(options)), options)
    return 0


def _trace(options: argparse.Namespace) -> int:
    _print(keras_winit.trace(_model(options)), options, indent=2)
    return 0


def _plot(found: Any, options: argparse.Namespace) -> None:
    if options.plot:
        with files.written_whole(Path(options.plot)) as name:
            found.plot().savefig(name, dpi=120)


def _print(found: Any, options: argparse.Namespace, indent: int = 1) -> None:
    print(json.dumps(found.to_dict(), indent=indent) if options.json else found)


def _model(options: argparse.Namespace) -> Any:
    """The model in the file; where it is to be written is checked before."""
    files.check_plot_path(getattr(options, "plot", None))
    if getattr(options, "out", None) is not None:
        files.check_model_path(options.out)
    for module in options.modules:
        files.import_module(module)
    return files.read_model(options.model)


def _arrays(options: argparse.Namespace) -> tuple[Any, Any]:
    return files.read_arrays(options.data), files.read_arrays(options.labels)


def _recommend(options: argparse.Namespace) -> int:
    print(keras_winit.recommend(options.activation, distribution=options.distribution, method=options.method))
    return 0


def _initialize(options: argparse.Namespace) -> int:
    if options.out is None and not options.dry_run:
        raise ValueError("Say which file to write, which may be the same, or --dry-run to write none.")
    model = _model(options)
    plan = keras_winit.initialize(
        model, options.scheme, seed=options.seed, dry_run=options.dry_run, overwrite=options.overwrite
    )
    if not options.dry_run:
        files.write_model(model, options.out)
    print(plan)
    if not options.dry_run:
        print(f"Written to {options.out}.")
    return 0


def _portable(options: argparse.Namespace) -> int:
    files.write_model(keras_winit.portable(_model(options)), options.out)
    print(f"Written to {options.out}. It loads without keras_winit.")
    return 0


def _diagnose(options: argparse.Namespace) -> int:
    model = _model(options)
    report = keras_winit.diagnose(model, *_arrays(options), options.loss)
    _plot(report, options)
    _print(report, options)
    return 0 if report.ok else 1


def _calibrate(options: argparse.Namespace) -> int:
    model = _model(options)
    calibration = keras_winit.calibrate(
        model,
        *_arrays(options),
        options.loss,
        target_std=options.target_std,
        scheme=options.scheme,
        seed=options.seed,
    )
    files.write_model(model, options.out)
    print(calibration)
    print(f"Written to {options.out}.")
    return 0


def _compare(options: argparse.Namespace) -> int:
    model = _model(options)
    found = keras_winit.compare(
        model,
        *(*_arrays(options), options.schemes, options.steps),
        learning_rates=options.learning_rates,
        batch_size=options.batch_size,
        monitor=options.monitor,
        seed=options.seed,
        apply=options.out is not None,
    )
    _plot(found, options)
    writes = options.out is not None and found.winner is not None
    if writes:
        files.write_model(model, options.out)
    _print(found, options)
    if writes and not options.json:
        print(f"Written to {options.out}.")
    return 0 if found.winner is not None else 1


def _demo(options: argparse.Namespace) -> int:
    return demo.run(options.epochs, options.seed, options.save)


_COMMANDS = {
    "schemes": _schemes,
    "recipes": _recipes,
    "recommend": _recommend,
    "branches": _branches,
    "trace": _trace,
    "initialize": _initialize,
    "portable": _portable,
    "diagnose": _diagnose,
    "calibrate": _calibrate,
    "compare": _compare,
    "demo": _demo,
}


if __name__ == "__main__":
    sys.exit(main())
