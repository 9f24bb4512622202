"""What bench/compare prints, and what it writes: tables in docs/BENCHMARKS.md, plots and samples in docs/benchmarks/."""
import statistics

from brokers import TITLES


def medians(samples):
    """By kind and figure; without brokers that were not measured."""
    return {kind: {name: statistics.median(sample[name] for sample in rounds) for name in rounds[0]}
            for kind, rounds in samples.items() if rounds}


def heading(machine, versions, rounds):
    known = ", ".join("%s %s" % (TITLES[kind], version) for kind, version in versions.items())
    return "%s, %d cores, Linux %s; %d interleaved rounds, medians; %s" % (
        machine["cpu"], machine["cores"], machine["kernel"], rounds, known)


def columns(kinds):
    heads = ["work", "goal", "reached"] + [TITLES[kind] for kind in kinds]
    return "| " + " | ".join(heads) + " |\n|" + "---|" * len(heads)


def verdicts(row, middle):
    """Of each goal: what it says, what was measured, whether that is enough."""
    checked = [(text, check(row, middle)) for text, check in row.goals]
    return [(text, *result) for text, result in checked if result]


def line(row, samples, kinds):
    middle = medians(samples)
    judged = verdicts(row, middle)
    cells = [row.title, "<br>".join(text for text, _, _ in judged),
             "<br>".join("%s %s" % ("yes:" if met else "**no**:", value) for _, value, met in judged)]
    for kind in kinds:
        if kind not in middle:
            cells.append("")
            continue
        cell = row.show(middle[kind])
        advantage = None if kind == "ours" else row.advantage(middle["ours"], middle[kind])
        cells.append(cell + (" (%.2g ×)" % advantage if advantage else ""))
    return "| " + " | ".join(cells) + " |"


def write(results):
    raise SystemExit("later")
