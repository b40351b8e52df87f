"""A loaded model that several threads use at once."""

import threading

import numpy as np
import pytest
from made_batches import BATCH_SIZE, made_batch, made_source, made_trainer

from cupyrec import load_model

THREADS, TURNS = 4, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    made_trainer().save(folder)
    return folder


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_that_predict_at_once_get_what_each_would_get_alone(folder, threads):
    model = load_model(folder, batch_size=BATCH_SIZE, threads=threads)
    batches = [made_batch(seed) for seed in range(THREADS)]
    expected = [model.predict(batch) for batch in batches]
    source = made_source(THREADS)
    alone = model.evaluate(source)
    wrong = []

    def predict(number):
        for turn in range(TURNS):
            if not np.array_equal(model.predict(batches[number]), expected[number]):
                wrong.append((number, turn))

    def evaluate():
        for turn in range(TURNS // 10):
            if model.evaluate(source) != alone:
                wrong.append(("evaluate", turn))

    users = [threading.Thread(target=predict, args=(number,)) for number in range(THREADS)]
    users.append(threading.Thread(target=evaluate))
    for user in users:
        user.start()
    for user in users:
        user.join(120)
        assert not user.is_alive()
    assert wrong == []


def test_who_predicts_while_all_is_predicted_disturbs_nothing(folder):
    model, logits = load_model(folder, batch_size=BATCH_SIZE, threads=1), []
    other = model.predict(made_batch(9))

    def take(given, labels):
        np.testing.assert_array_equal(model.predict(made_batch(9)), other)
        logits.append(given)

    assert model.predict_all(made_source(3), take)
    for seed, given in enumerate(logits):
        np.testing.assert_array_equal(given, model.predict(made_batch(seed)))
