"""A trainer that keeps the checkpoint of its best evaluation, and one that ends when none is better."""

import pytest
from checkpoint_runs import BATCH_SIZE, STEPS, SYSTEMS, bits, made_source, make_trainer

from cupyrec.errors import ConfigError
from cupyrec.training.trained_model import load_model

VALID = made_source(20, first=100)
HOW = {"valid": VALID, "epochs": 6, "eval_every": 3}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_best_stays_and_is_what_was_evaluated(tmp_path, system, device):
    trainer, plain = make_trainer(system, device=device), make_trainer(system, device=device)
    result = trainer.fit(
        made_source(), **HOW, checkpoints=trainer.checkpoints(tmp_path, every=0, keep=1, keep_best=True)
    )
    best = tmp_path / f"step-{result.best.step:08}"
    assert list(tmp_path.iterdir()) == [best]
    metrics = load_model(best, batch_size=BATCH_SIZE, threads=1).evaluate(VALID)
    assert metrics.auc == pytest.approx(result.best.metrics.auc, abs=1e-6)
    # It changes nothing.
    assert plain.fit(made_source(), **HOW).best == result.best
    assert bits(plain) == bits(trainer)


def test_patience_ends_it_at_an_evaluation_on_the_way():
    told = []
    trainer = make_trainer("scratchpipe")
    result = trainer.fit(made_source(), **HOW, patience=1, on_evaluation=told.append)
    aucs = [each.metrics.auc for each in told]
    assert aucs[:-1] == sorted(set(aucs[:-1]))  # each better than all before
    assert aucs[-1] <= aucs[-2]
    assert (result.steps, result.out_of_patience, result.interrupted) == (3 * len(told), True, False)
    assert result.steps < 6 * STEPS


def test_without_patience_it_never_ends_early():
    result = make_trainer("resident").fit(made_source(), **HOW)
    assert (result.steps, result.out_of_patience) == (6 * STEPS, False)


def test_numbers_that_make_no_sense_are_refused(tmp_path):
    trainer = make_trainer("resident")
    with pytest.raises(ConfigError, match="patience is 2, but counts evaluations on the way: give eval_every"):
        trainer.fit(made_source(), valid=VALID, patience=2)
    with pytest.raises(ConfigError, match="patience must be a whole number of at least 0"):
        trainer.fit(made_source(), valid=VALID, eval_every=2, patience=-1)
    with pytest.raises(ConfigError, match="every must be a whole number of at least 1"):
        trainer.checkpoints(tmp_path, every=0)
