"""What the runs of the residual benchmark say: best losses, ranges of learning rates, and the bar."""

import statistics

DEFAULTS = ("Keras' default", "PyTorch's rule")
OURS = ("initialize", "calibrate")
RECIPE = "its recipe"
METHODS = (*DEFAULTS, *OURS, RECIPE)
MARGIN = 1.1
SEEDS = (0, 1, 2)
BEST = 2  # rates that are tried with all seeds: the first seed alone is often wrong about the best
TIMES = 3  # a run is stopped where its loss is so many times the first


class Findings:
    """What the runs of one network say.

    Args:
        record: what the best constant answer has, and its runs, by method, learning rate and seed: the
            first loss and the last, None for a run that was stopped, which counts as where it was.
    """

    def __init__(self, record):
        self.recipe, self.residual = record["recipe"], record["residual"]
        self._runs = record["runs"]
        self.methods = [method for method in METHODS if method in self._runs]
        pairs = [
            pair for runs in self._runs.values() for by_seed in runs.values() for pair in by_seed.values()
        ]
        self.guess = record["guess"]
        best = min((pair[1] for pair in pairs if pair[1] is not None), default=self.guess)
        self.middle = (self.guess + best) / 2

    def curve(self, method):
        """Learning rates in order, and the mean last loss at each."""
        return [(float(rate), statistics.fmean(self._last(found))) for rate, found in self._in_order(method)]

    def best_rates(self, method):
        """The rates that end lowest with the first seed, the best first: more seeds are tried with these."""
        found = sorted(self._in_order(method), key=lambda each: self._last(each[1])[0])
        return [rate for rate, _ in found[:BEST]]

    def best_rate(self, method):
        """Of these the one that ends lowest with all seeds; the first where only that was tried with them."""
        rates = self.best_rates(method)
        most = max(len(self._at(method, rate)) for rate in rates)
        whole = [rate for rate in rates if len(self._at(method, rate)) == most]
        return min(whole, key=lambda rate: statistics.fmean(self._at(method, rate)))

    def loss(self, method):
        """The mean last loss at the best rate."""
        return statistics.fmean(self._at_best(method))

    def spread(self, method):
        """The largest less the smallest last loss of the seeds at the best rate."""
        return max(self._at_best(method)) - min(self._at_best(method))

    def seeds(self, method):
        """How many seeds the best rate was tried with."""
        return len(self._at_best(method))

    def trained(self, method):
        """The rates that train: their run ends below the middle of guessing and the best of all."""
        return [rate for rate, found in self._in_order(method) if self._last(found)[0] < self.middle]

    def better_default(self):
        """The one of Keras' and PyTorch's that ends lower."""
        return min(DEFAULTS, key=self.loss)

    def ratio(self, method):
        """The loss against that of the better default."""
        return self.loss(method) / self.loss(self.better_default())

    def is_worse(self, method):
        """Whether it ends above the better default, by more than seeds differ."""
        other = self.better_default()
        return self.loss(method) - self.loss(other) > max(self.spread(method), self.spread(other))

    def wider_by(self, method):
        """How many rates more train than with the better of the defaults; negative for fewer."""
        return len(self.trained(method)) - max(len(self.trained(each)) for each in DEFAULTS)

    def _at_best(self, method):
        return self._at(method, self.best_rate(method))

    def _at(self, method, rate):
        return self._last(self._runs[method][rate])

    def _last(self, by_seed):
        return [TIMES * first if last is None else last for first, last in by_seed.values()]

    def _in_order(self, method):
        return sorted(self._runs[method].items(), key=lambda each: float(each[0]))


def whole(record):
    """The findings of each network on which every method was tried with all seeds."""
    found = {}
    for name, each in record["networks"].items():
        wanted = set(METHODS) - ({RECIPE} if each["recipe"] is None else set())
        if wanted <= set(each["runs"]):
            findings = Findings(each)
            if all(findings.seeds(method) == len(SEEDS) for method in wanted):
                found[name] = findings
    return found


def span(rates):
    """Rates that train, as a text."""
    if not rates:
        return "none"
    return f"{len(rates)}: {rates[0]}–{rates[-1]}" if len(rates) > 1 else f"1: {rates[0]}"


def bar(found):
    """Lines that say how ours compare with the defaults."""
    lines = []
    residual = [name for name, each in found.items() if each.residual]
    for method in (*OURS, RECIPE):
        having = [name for name, each in found.items() if method in each.methods]
        worse = [name for name in having if found[name].is_worse(method)]
        better = sum(found[name].ratio(method) < 1 / MARGIN for name in having)
        narrower = [name for name in residual if found[name].wider_by(method) < 0]
        wider = sum(found[name].wider_by(method) > 0 for name in residual)
        lines += [
            f"{method}: a loss lower by 10 % than that of the better default on {better} of {len(having)}; "
            f"higher, beyond the seeds, on {len(worse)}: {', '.join(worse) or 'none'}",
            f"{method}: more learning rates train than with either default on {wider} of {len(residual)} "
            f"residual networks; fewer on {len(narrower)}: {', '.join(narrower) or 'none'}",
        ]
    return lines


def table(found):
    """Lines with the best loss, its spread and rate, and what trains, for each network and method."""
    lines = []
    for name, each in found.items():
        lines.append(f"{name}: {each.guess:.2f} by guessing, trained below {each.middle:.2f}")
        for method in each.methods:
            called = each.recipe if method == RECIPE else method
            ratio = "" if method in DEFAULTS else f"×{each.ratio(method):.2f}"
            lines.append(
                f"    {called:16}{each.loss(method):7.4g} ± {each.spread(method) / 2:<7.2g} at "
                f"{each.best_rate(method):8}{ratio:7} trains at {span(each.trained(method))}"
            )
    return lines
