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
from keras_winit.options import read_options
from keras_winit.schemes import scheme_class
from keras_winit.support.terminal import console, table

_WRITTEN = "Written to {}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 where what it checks does not hold, 2 for an error."""
    options = read_options(arguments)
    try:
        status = _COMMANDS[options.command](options)
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
    if not options.dry_run:
        print(_WRITTEN.format(options.out))
    return 0


def _portable(options: argparse.Namespace) -> int:
    check_model_path(options.out)
    write_model(keras_winit.portable(_model(options)), options.out)
    print(f"{_WRITTEN.format(options.out)} It loads without keras_winit.")
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
    print(_WRITTEN.format(options.out))
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
    writes = options.out is not None and found.winner is not None
    if writes:
        write_model(model, options.out)
    print(json.dumps(found.to_dict(), indent=1) if options.json else found)
    if writes and not options.json:
        print(_WRITTEN.format(options.out))
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
