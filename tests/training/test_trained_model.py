"""A loaded model in use: by several threads at once, in other threads, in children."""

import dataclasses
import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from batch_strategies import random_batch
from cupyrec_threads import cupyrec_threads
from made_batches import BATCH_SIZE, made_batch, made_source, made_trainer

from cupyrec import BatchList, DlrmConfig, Trainer, load_model
from cupyrec.errors import ConfigError

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


def workers():
    return cupyrec_threads("cupyrec-cpu-")


def test_its_threads_live_as_long_as_it_does(folder):
    model = load_model(folder, batch_size=BATCH_SIZE, threads=3)
    there = workers()
    assert len(there) == 2
    model.predict(made_batch(0))
    assert workers() == there
    del model
    gc.collect()
    assert workers() == []


def test_bits_do_not_depend_on_which_thread_calls(tmp_path):
    """Where another thread may not set BLAS's threads, products are cut otherwise, and sums rounded otherwise."""
    rows, samples = (50, 60), 512
    config = DlrmConfig(rows, dense_features=32, dimension=16, bottom=(256, 16), top=(256, 1))
    batches = [random_batch(np.random.default_rng(seed), rows, samples, dense_features=32) for seed in range(3)]
    found = []

    def use():
        trainer = Trainer(config, batch_size=samples, threads=2)
        trainer.fit(BatchList(batches, rows, 32))
        trainer.save(tmp_path / str(len(found)))
        model = load_model(tmp_path / str(len(found)), threads=2)
        found.append([model.predict(batch).tobytes() for batch in batches])

    use()
    for _ in range(2):
        other = threading.Thread(target=use)
        other.start()
        other.join()
    use()
    assert len(found) == 4
    assert all(each == found[0] for each in found)


FORKING = """
import os, signal, sys, threading, warnings
import numpy as np
sys.path[:0] = sys.argv[2:]
from made_batches import BATCH_SIZE, made_batch
from cupyrec import BatchList, DlrmConfig, Trainer, load_model
from cupyrec.errors import ConfigError

warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads, from Python 3.12 on
model, batch = load_model(sys.argv[1], batch_size=BATCH_SIZE, threads=3), made_batch(0)
expected, stop = model.predict(batch), threading.Event()


def predict():
    while not stop.is_set():
        model.predict(batch)


others = [threading.Thread(target=predict) for _ in range(2)]
for number in range(20):
    if number == 10:
        for other in others:
            other.start()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        for _ in range(3):
            if not np.array_equal(model.predict(batch), expected):
                os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status:
        print("a child ended with", status, flush=True)
        os._exit(1)
stop.set()
for other in others:
    other.join()
assert np.array_equal(model.predict(batch), expected)
"""


def test_children_predict_too_even_where_others_predict_as_they_are_made(folder):
    command = [sys.executable, "-c", FORKING, str(folder), *[path for path in sys.path if "tests" in path]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, ""), done


def test_a_batch_that_has_other_ids_is_refused(folder):
    model = load_model(folder, batch_size=BATCH_SIZE)
    plain = made_batch(1)
    expected = model.predict(plain).tolist()
    of_nobody_knows = dataclasses.replace(plain, encoding="feed")
    assert model.predict(of_nobody_knows).tolist() == expected  # the model does not say of what it is
    model.encoding = "beef"
    assert model.predict(plain).tolist() == expected
    assert model.predict(dataclasses.replace(plain, encoding="beef")).tolist() == expected
    with pytest.raises(ConfigError, match=r"ids of other data .*encoding feed, not beef\): make the SampleEncoder of"):
        model.predict(of_nobody_knows)


def test_a_batch_of_too_many_samples_says_how_to_load_the_model(folder):
    model = load_model(folder, batch_size=1)
    with pytest.raises(
        ConfigError, match=r"has \d+ samples, but there is memory for 1; see load_model\(\.\.\., batch_size="
    ):
        model.predict(made_batch(1))
