"""What is known of each network of one seed: how its training ended, what `diagnose` said, and by what."""

import json
from pathlib import Path

import trainability
from measure import about
from residual_networks.diagnosed import outcomes

from diagnosed.figures import findings, load, save, unpacked
from keras_winit.models.diagnosing.findings import THRESHOLDS

RESULTS = Path(__file__).parents[1] / "results"
KINDS = ("with labels", "without")
RESIDUAL = "residual "  # before the names of residual networks, where they stand beside plain ones
RESIDUAL_TOO = "all, residual ones too"
# Where a run ends: (fails below, trains from). Of cancer, 63 % have the commoner answer.
BOUNDS = {"dense": (0.5, 0.9), "convolutions": (0.5, 0.9), "cancer": (0.65, 0.9)}
_DEPTHS = (5, 10, 20, 40, 100)


class Record:
    """The networks of trainability.py with one seed, and with the first one those of residual.py.

    Args:
        seed: that networks are drawn with.
    """

    def __init__(self, seed=0):
        self.seed = seed
        end = f"_seed_{seed}" if seed else ""
        self._path, self._figures_path = RESULTS / f"diagnosis{end}.json", RESULTS / f"diagnosis{end}.npz"
        known = json.loads(self._path.read_text("utf-8")) if self._path.exists() else {}
        self.networks = known.get("networks", {})  # cell → method → kind → figures
        self.trained = known.get("trained", {})  # cell → method → accuracy, of ours
        self.residual = known.get("residual", {})
        self.remedies = known.get("remedies", {})
        self.figures = load(self._figures_path) if self._figures_path.exists() else {}

    def keep(self):
        found = {name: getattr(self, name) for name in ("networks", "trained", "residual", "remedies")}
        found |= {"counts": self.tables(), "remedies_counts": self.remedies_counts()}
        self._path.write_text(json.dumps(found | {"about": about("scikit-learn")}) + "\n", "utf-8")
        save(self._figures_path, self.figures)

    def judge(self, limits=THRESHOLDS):
        """Replace what was found in the figures of layers by what thresholds find in them."""
        for name, figures in self.figures.items():
            place, method, kind = name.split(" | ")
            known = self.residual if place.startswith(RESIDUAL) else self.networks
            told = known[place.removeprefix(RESIDUAL)][method][kind]
            others = [each for each in told["findings"] if each[0] not in OF_FIGURES]
            told["findings"] = [*others, *findings(unpacked(figures), limits)]
            told["ok"] = all(severity != "error" for _, severity in told["findings"])

    def rows(self):
        """(task, cell, method, outcome, figures) of each plain network that was looked at."""
        for task in trainability.TASKS:
            for cell, methods in ends_of(task).items():
                ends = {
                    name: seeds[self.seed] for name, seeds in methods.items() if name in trainability.PEERS
                }
                ends.update(self.trained.get(f"{task} {cell}", {}))
                for method, found in self.networks.get(f"{task} {cell}", {}).items():
                    if method in ends:
                        yield task, cell, method, outcome(task, ends[method]), found

    def residual_rows(self):
        """(name, method, outcome, figures) of each residual network that was looked at."""
        ends = outcomes(RESULTS / "residual.json")
        for name, methods in self.residual.items():
            for method, found in methods.items():
                if method in ends.get(name, {}):
                    yield name, method, ends[name][method], found

    def tables(self):
        """The counts of verdicts against outcomes, in the halves and of each task."""
        found = list(self.rows())
        parts = {
            "the half that thresholds were chosen on": [row for row in found if half(row[1]) == 0],
            "the other half": [row for row in found if half(row[1]) == 1],
            "all": found,
            **{task: [row for row in found if row[0] == task] for task in trainability.TASKS},
            "residual networks": (residual := list(self.residual_rows())),
            RESIDUAL_TOO: [*found, *residual],
        }
        parts = {title: part for title, part in parts.items() if part and (residual or title != RESIDUAL_TOO)}
        return {kind: {title: counted(part, kind) for title, part in parts.items()} for kind in KINDS}

    def remedies_counts(self):
        """Of each finding's remedies: (how often, the finding goes, nothing is left, the network trains)."""
        counts = {}
        for name, methods in self.remedies.items():
            _, trains = BOUNDS[name.partition(" ")[0]]
            for each in (each for found in methods.values() for each in found):
                told = True, each["finding"] not in each["left"], not each["left"], each["accuracy"] >= trains
                for key in (each["finding"], "all"):
                    counts[key] = [a + b for a, b in zip(counts.get(key, [0] * 4), told, strict=True)]
        return counts

    def show(self):
        for kind, parts in self.tables().items():
            for title, ends in parts.items():
                print(f"\n{title}, {kind}")
                print(
                    f"  {'outcome':10}{'networks':>9}{'errors':>9}{'warnings':>10}{'healthy':>9}{'not ok':>9}"
                )
                for end, (bad, warned, healthy) in ends.items():
                    total = bad + warned + healthy
                    print(
                        f"  {end:10}{total:9}{bad:9}{warned:10}{healthy:9}{bad / total:9.1%}"
                        f"  with a warning {(bad + warned) / total:.1%}"
                    )
        print("\nMissed, and condemned though they train:")
        residual = ((name, "", *rest) for name, *rest in self.residual_rows())
        for place, cell, method, end, each in (*self.rows(), *residual):
            if end != "between" and (end == "fails") == each["with labels"]["ok"]:
                print(f"  {end:7}{place} {cell} {method}: {each['with labels']['findings']}")
        for code, (many, gone, healthy, good) in self.remedies_counts().items():
            print(
                f"remedies of {code}: {many}, the finding goes {gone}, none is left {healthy}, trains {good}"
            )
        for name, method, code, gone, end in self.residual_remedies():
            print(f"{name}, {method}: after `calibrate` {code} {'goes' if gone else 'stays'}; it {end}")

    def residual_remedies(self):
        """What `calibrate` does, the remedy in residual networks, to each finding of those that fail."""
        for name, method, end, found in self.residual_rows():
            helped = self.residual[name].get("calibrate")
            if end == "fails" and helped is not None:
                ends = outcomes(RESULTS / "residual.json")[name]["calibrate"]
                left = {code for code, severity in helped["with labels"]["findings"] if severity != "note"}
                codes = {code for code, severity in found["with labels"]["findings"] if severity != "note"}
                yield from ((name, method, code, code not in left, ends) for code in sorted(codes))


# What a `Judge` finds; the rest is of weights and outputs.
OF_FIGURES = {
    *("non_finite", "unscaled_data", "vanishing_signal", "exploding_signal", "input_collapse"),
    *("vanishing_gradient", "exploding_gradient", "inputs_lost", "labels_lost", "one_direction"),
    *("dead_units", "saturated", "rank_collapse"),
}


def ends_of(task):
    """What trainability.py recorded: cell → method → accuracies."""
    return json.loads((RESULTS / f"trainability_{task}.json").read_text("utf-8"))["cells"]


def outcome(task, accuracy):
    fails, trains = BOUNDS[task]
    return "fails" if accuracy < fails else "trains" if accuracy >= trains else "between"


def half(cell):
    """0 for what thresholds were chosen on, where more networks end in between; 1 for the rest."""
    activation, depth = cell.split()
    return (trainability.ACTIVATIONS.index(activation) + _DEPTHS.index(int(depth)) + 1) % 2


def counted(found, kind):
    """For each outcome: how many have errors, how many warnings alone, and how many are healthy."""
    counts = {}
    for end in ("fails", "between", "trains"):
        here = [each[kind] for *_, outcome, each in found if outcome == end]
        healthy = sum(all(severity == "note" for _, severity in each["findings"]) for each in here)
        bad = sum(not each["ok"] for each in here)
        if here:
            counts[end] = [bad, len(here) - bad - healthy, healthy]
    return counts
