"""What several benchmarks need: the memory in use, and a record of what was measured."""

import importlib.metadata
import json
import os
import platform
import sys
import threading
import time
from datetime import date

import keras


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


def run_with_frugal_malloc():
    """Start this program again with allocators that give freed memory back at once.

    TensorFlow's oneDNN puts its own pool over malloc, which keeps every block for the next
    tensor: what has been freed would count as in use.
    """
    settings = {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})


class Peak:
    """The largest resident set while a block runs, above what it was before."""

    def __enter__(self):
        self.start = self.peak = resident_bytes()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.is_set():
            self.peak = max(self.peak, resident_bytes())
            time.sleep(0.0005)

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.above = self.peak - self.start


def processor():
    with open("/proc/cpuinfo", encoding="ascii") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores"


def about(*more):
    """Where and when something was measured, and with which versions of Keras, NumPy and more."""
    backend = keras.backend.backend()
    return {
        "backend": backend,
        "versions": {name: importlib.metadata.version(name) for name in ("keras", backend, "numpy", *more)},
        "python": platform.python_version(),
        "machine": processor(),
        "date": date.today().isoformat(),
    }


def record(path, tables):
    """Write tables of rows to a JSON file, with where and when they were measured."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**about(), **tables}, file, indent=1)
        file.write("\n")
