"""Make the golden files of schemes that have none yet: python tests/golden/make.py

Those of a few schemes are of the oldest Keras that is supported, made under it, with the folder and the
names as arguments: python tests/golden/make.py keras_3_10 he_normal orthogonal scaled prior_bias

A golden file is what some release wrote, and is never written again: it shows that what users
have saved still loads. `expected.json` holds what each model was when it was saved.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

import keras  # noqa: E402
from cases import BY_NAME, home_model  # noqa: E402
from reload import describe  # noqa: E402

import keras_winit as winit  # noqa: E402

if __name__ == "__main__":
    folder = FOLDER.joinpath(*sys.argv[1:2])
    folder.mkdir(exist_ok=True)
    record = folder / "expected.json"
    expected = json.loads(record.read_text()) if record.exists() else {}
    for name in sys.argv[2:] or winit.names():
        case = BY_NAME[name]
        for kind in ("keras", "h5"):
            path = folder / f"{name}.{kind}"
            if path.exists():
                continue
            keras.utils.clear_session()
            seed = {"seed": 7} if "seed" in winit.get(name).get_config() else {}
            home_model(case, winit.get(name, **case.arguments, **seed)).save(path)
            expected[path.name] = {"version": winit.__version__, **describe(str(path))}
            print("made", path.name)
    record.write_text(json.dumps(expected, indent=1) + "\n")
