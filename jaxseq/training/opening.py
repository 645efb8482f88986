"""How a run is opened: new, gone on with, or started from another one."""

import dataclasses
from pathlib import Path

from jaxseq.config import read_json
from jaxseq.data.corpus import Corpus
from jaxseq.data.tokenizers import load_tokenizer
from jaxseq.errors import UserError
from jaxseq.training.experiment import CONFIG_FILE, Experiment, check_same, read_experiment
from jaxseq.training.finetune import like
from jaxseq.training.run_directory import (
    CHECKPOINTS,
    RUN_FILE,
    TOKENIZER_FILE,
    check_corpus,
    frozen_paths,
    write_run_files,
)
from jaxseq.training.source_run import open_source


@dataclasses.dataclass(frozen=True)
class OpenedRun:
    """An experiment completed by its data, not yet written anywhere."""

    experiment: Experiment
    corpus: Corpus
    run_dir: Path
    fresh: tuple[str, ...]
    """Parameters that the source of a fine-tuned run does not have."""
    frozen: frozenset[str]
    """Parameters that stay as they are."""

    def write(self) -> None:
        """Makes the run directory, or notes another start in it; UserError where it cannot."""
        write_run_files(
            self.run_dir,
            self.experiment,
            self.corpus.tokenizer,
            self.corpus,
            self.fresh,
        )


def open_run_directory(experiment: Experiment, run_dir: Path) -> OpenedRun:
    """Loads the data of an experiment that is to start or to go on in `run_dir`.

    Raises UserError where `run_dir` holds something else: another experiment with checkpoints, a
    corpus that has changed since, or files that are no run's.
    """
    resuming = (run_dir / CHECKPOINTS).is_dir() and any((run_dir / CHECKPOINTS).iterdir())
    if run_dir.exists() and not run_dir.is_dir():
        raise UserError(f"{run_dir} is a file; choose another --run-dir")
    if run_dir.is_dir() and any(run_dir.iterdir()) and not (run_dir / CONFIG_FILE).exists():
        raise UserError(
            f"{run_dir} holds files but no run ({CONFIG_FILE} is missing); choose another --run-dir"
        )
    data, finetune = experiment.data.resolve(), experiment.finetune.resolve()
    model, tokenizer, saved, source = experiment.model, None, None, None
    if resuming:
        saved = read_experiment(run_dir)
        tokenizer = load_tokenizer(run_dir / TOKENIZER_FILE)
        if finetune.from_run is not None:  # which may be gone by now
            model = like(model, saved.model)
    elif finetune.from_run is not None:
        source = open_source(finetune)
        tokenizer = source.tokenizer
        model = like(model, source.experiment.model)
    corpus = data.load(tokenizer)
    try:
        model = experiment.task.resolve(model, data, corpus.tokenizer)
    except UserError as error:
        if finetune.from_run is None:
            raise
        where = f"the architecture is that of {finetune.from_run}"
        raise UserError(f"{error} ({where}, whatever --model says)") from error
    experiment = dataclasses.replace(experiment, model=model, data=data, finetune=finetune)
    fresh: tuple[str, ...] = ()
    if saved is not None:
        check_same(run_dir, saved, experiment)
        _check_trained_here(run_dir)
        check_corpus(run_dir, corpus)
        fresh = tuple(read_json(run_dir / RUN_FILE)["fresh"]) if finetune.from_run else ()
    elif source is not None:
        fresh = source.match(experiment).fresh
    return OpenedRun(experiment, corpus, run_dir, fresh, frozen_paths(experiment, fresh))


def _check_trained_here(run_dir: Path) -> None:
    if read_json(run_dir / RUN_FILE)["corpus"] is None:
        raise UserError(
            f"{run_dir} holds parameters from elsewhere and no training to go on with; start from "
            f"them with --finetune.from-run {run_dir} and another --run-dir"
        )
