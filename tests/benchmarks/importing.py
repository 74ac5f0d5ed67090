"""What importing the package costs beside Keras, in new processes.

Usage: python tests/benchmarks/importing.py [--runs N]
"""

import argparse
import statistics
import subprocess
import sys

CODE = """
import time
import keras
start = time.perf_counter()
import keras_winit
print("SECONDS", time.perf_counter() - start)
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    found = []
    for _ in range(options.runs + 1):  # the first compiles it
        finished = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        found.append(float(finished.stdout.split("SECONDS")[1]))
    print(f"importing keras_winit after keras: {1000 * statistics.median(found[1:]):.0f} ms")


if __name__ == "__main__":
    main()
