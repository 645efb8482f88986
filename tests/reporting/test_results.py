"""Metrics side by side, and which is best."""

from made_runs import write_evaluation, write_run

from jaxseq.reporting.results import best, headline, measured, results_section
from jaxseq.reporting.runs import read_runs


def evaluated(tmp_path, *all_metrics, corpora=(), **more):
    folders = []
    for place, metrics in enumerate(all_metrics):
        corpus = corpora[place] if corpora else "abc"
        folder = write_run(tmp_path / f"run{place}", steps=2, corpus=corpus)
        write_evaluation(folder, metrics, **more)
        folders.append(folder)
    return read_runs(folders)


def bold(runs):
    return "".join(results_section(runs)).count('class="best"')


def test_the_best_is_marked_by_what_its_metric_is(tmp_path):
    rows = [{"loss": x, "accuracy": y, "tokens": 7, "odd": x} for x, y in ((1.0, 0.5), (2.0, 0.7))]
    runs = evaluated(tmp_path, *rows)
    values = [measured(run.evaluations["test"]) for run in runs]

    def of(name):
        return best(runs, name, {place: each[name] for place, each in enumerate(values)})

    assert (of("loss"), of("accuracy"), of("tokens"), of("odd")) == ({0}, {1}, set(), set())
    assert bold(runs) == 2
    said = "Best of 2: run1, accuracy 0.7000 (95 %: 0.6000 to 0.8000) on the test split."
    assert headline(runs) == said


def test_equals_are_both_best_and_no_headline_names_one(tmp_path):
    runs = evaluated(tmp_path, {"accuracy": 0.5}, {"accuracy": 0.5})
    assert bold(runs) == 2
    assert headline(runs) is None


def test_runs_on_different_data_have_no_best(tmp_path):
    runs = evaluated(tmp_path, {"accuracy": 0.5}, {"accuracy": 0.6}, corpora=("one", "other"))
    assert bold(runs) == 0
    assert "No best is marked: the runs were trained on different data" in "".join(
        results_section(runs)
    )


def test_a_split_that_the_data_does_not_have_is_not_missed(tmp_path):
    runs = evaluated(tmp_path, {"accuracy": 0.5})
    other = write_run(tmp_path / "other", held_out=("validation",))
    page = "".join(results_section([*runs, *read_runs([other])]))
    assert f"jaxseq evaluate {other}" not in page


def test_what_is_not_evaluated_is_said_with_the_command(tmp_path):
    runs = evaluated(tmp_path, {"accuracy": 0.5})
    other = write_run(tmp_path / "not yet", steps=50)
    page = "".join(results_section([*runs, *read_runs([other])]))
    assert f"jaxseq evaluate &#x27;{other}&#x27; --split test" in page
    assert "Validation during training" in page
    alone = read_runs([other])
    assert headline(alone) == f"Validation loss {alone[0].rows[-1]['loss']:.4f} after step 50."


def test_details_are_shown(tmp_path):
    folder = write_run(tmp_path / "run", steps=2)
    details = {"signature": "nrefs:1|case:mixed", "by_length": {"10": [1, 2]}, "seen": {"x": "y z"}}
    write_evaluation(folder, {"bleu": 30.0}, details=details)
    page = "".join(results_section(read_runs([folder])))
    assert "nrefs:1|case:mixed" in page
    assert "{&quot;10&quot;: [1, 2]}" in page
    assert "seen, x: <code>y z</code>" in page
    assert "commit abcdef" in page


def test_a_detail_that_all_share_is_said_once(tmp_path):
    runs = evaluated(tmp_path, {"bleu": 30.0}, {"bleu": 20.0}, details={"signature": "13a"})
    page = "".join(results_section(runs))
    assert page.count("<li>signature: <code>13a</code></li>") == 1
