"""Evaluation on batches of one's own, against scikit-learn."""

import numpy as np
import pytest
from made_batches import BATCH_SIZE, CONFIG, TABLE_ROWS, WatchedSource, made_batch, made_source, no_samples
from sklearn.metrics import log_loss, roc_auc_score

from cupyrec import BatchList, Trainer, load_model
from cupyrec.datasets.source import check_batch_size
from cupyrec.errors import ConfigError, DataError, DivergenceError
from cupyrec.evaluation.evaluation import check_source_fits, evaluate


@pytest.fixture(scope="module")
def system():
    return Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1).system


def test_measures_all_samples(system):
    batches = [made_batch(0), no_samples(), made_batch(1), made_batch(2, samples=5)]
    source = BatchList(batches, TABLE_ROWS, CONFIG.dense_features)
    metrics = evaluate(system, source, BATCH_SIZE)
    logits = np.concatenate([system.predict(batch).copy() for batch in batches if batch.samples]).astype(np.float64)
    labels = np.concatenate([batch.labels for batch in batches])
    assert metrics.samples == 37
    assert metrics.auc == pytest.approx(roc_auc_score(labels, logits), abs=1e-12)
    assert metrics.log_loss == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-logits))), rel=1e-6)


def test_tells_the_progress_and_closes_the_source(system):
    source, shares = WatchedSource([made_batch(seed) for seed in range(4)]), []
    evaluate(system, source, BATCH_SIZE, on_progress=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1]
    assert source.closed == 1


def test_a_stop_gives_no_metrics(system):
    source = WatchedSource([made_batch(seed) for seed in range(4)])
    assert evaluate(system, source, BATCH_SIZE, stop_requested=lambda: source.handed_out == 3) is None
    assert source.handed_out == 3
    assert source.closed == 1


def test_what_the_source_raises_comes_through(system):
    with pytest.raises(DataError, match="spoilt"):
        evaluate(system, WatchedSource([made_batch(0)], fails_after=0, error=DataError("spoilt")), BATCH_SIZE)


def test_predictions_that_are_not_finite_are_an_error_and_no_warning():
    trainer = Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1)
    trainer.system.model.parameters[:] = 3e38
    with pytest.raises(DivergenceError, match="NaN or infinite"):
        evaluate(trainer.system, made_source(1), BATCH_SIZE)


def test_refuses_what_does_not_fit():
    check_source_fits(made_source(0), CONFIG)
    with pytest.raises(ConfigError, match=r"^the data: 2 tables and 3 dense features, .* 3 and 3: name data"):
        check_source_fits(BatchList([], (7, 40), 3), CONFIG)
    with pytest.raises(ConfigError, match=r"^the data: table 2 of 3 has 9 rows, but that of the model has 40: "):
        check_source_fits(BatchList([], (7, 9, 9), 3), CONFIG)
    check_batch_size(made_batch(0, samples=4), 4)
    with pytest.raises(ConfigError, match=r"5 samples.*4"):
        check_batch_size(made_batch(0, samples=5), 4)


def test_a_loaded_model_predicts_and_evaluates_as_the_trained_one(tmp_path):
    trainer = Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1)
    trainer.fit(made_source(5))
    trainer.save(tmp_path, {"note": "five steps"})
    model = load_model(tmp_path, batch_size=BATCH_SIZE, threads=1)
    assert model.config == CONFIG
    assert (model.description["steps"], model.description["training"]) == (
        5,
        {"encoding": None, "note": "five steps"},
    )
    batch = made_batch(99, samples=7)
    assert model.predict(batch).tobytes() == np.array(trainer.system.predict(batch)).tobytes()
    assert model.evaluate(made_source(3, first=50)) == trainer.evaluate(made_source(3, first=50))
    first = model.predict(batch)
    model.predict(made_batch(98, samples=7))
    assert first.tobytes() == model.predict(batch).tobytes()  # what predict returns is the caller's


def test_a_loaded_model_refuses_what_does_not_fit(tmp_path):
    Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1).save(tmp_path)
    model = load_model(tmp_path, batch_size=4, threads=1)
    with pytest.raises(ConfigError, match=r"5 samples.*4"):
        model.predict(made_batch(0, samples=5))
    bad = made_batch(0, samples=4)
    bad.rows[-1] = sum(TABLE_ROWS)
    with pytest.raises(DataError, match="feature 2"):
        model.predict(bad)
    with pytest.raises(ConfigError, match="made for"):
        model.evaluate(BatchList([], (7, 40), 3))


def test_a_loaded_model_says_what_it_takes(tmp_path):
    Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1).save(tmp_path)
    with pytest.raises(ConfigError, match=r"batch_size must be a whole number of at least 1, but is 2\.5"):
        load_model(tmp_path, batch_size=2.5)
    model = load_model(tmp_path, batch_size=4, threads=1)
    for wrong, kind in ((made_source(1), "BatchList"), ([1, 2], "list"), (None, "NoneType")):
        with pytest.raises(DataError, match=rf"a batch must be a cupyrec\.Batch, but this is a {kind}"):
            model.predict(wrong)
    with pytest.raises(ConfigError, match=r"the data must be a source, .* but are a str"):
        model.evaluate("file.tsv")


def test_without_samples_it_says_so():
    trainer = Trainer(CONFIG, batch_size=BATCH_SIZE, threads=1)
    for batches in ([], [no_samples()]):
        with pytest.raises(DataError, match=r"no samples to evaluate on: the batches of BatchList have none; "):
            trainer.evaluate(BatchList(batches, TABLE_ROWS, CONFIG.dense_features))
