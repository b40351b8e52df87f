import threading
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cupyrec.datasets.preparing import order_phase
from cupyrec.datasets.preparing import vocabulary as vocabulary_module
from cupyrec.datasets.preparing.key_table import mix
from cupyrec.datasets.preparing.order_phase import keys_digest
from cupyrec.datasets.preparing.vocabulary import Vocabulary
from cupyrec.errors import ConfigError

ALL_BITS = 2**64 - 1
KEYS = st.one_of(
    st.integers(0, 5),
    st.sampled_from([0, ALL_BITS, 2**63, 2**32, 2**32 - 1]),
    st.integers(0, ALL_BITS),
)


def digest_of(vocabulary):
    return keys_digest(vocabulary.keys_of(slice(1, vocabulary.size)))


def as_keys(values):
    return np.array(values, dtype=np.uint64)


def encode(vocabulary, keys):
    ids = np.full(len(keys), 9**9, np.uint32)
    return ids.tolist(), vocabulary.encode(as_keys(keys), ids).tolist(), ids


def lookup(vocabulary, keys):
    ids = np.full(len(keys), 9**9, np.uint32)
    vocabulary.lookup(as_keys(keys), ids)
    return ids.tolist()


def check_encode(vocabulary, known, counts, keys):
    """Encode and compare with a dict. known: key to id; counts: Counter of keys. Both are modified."""
    expected, new = [], []
    for position, key in enumerate(keys):
        if key not in known:
            known[key] = len(known) + 1
            new.append(position)
        counts[key] += 1
        expected.append(known[key])
    ids = np.full(len(keys), 9**9, np.uint32)
    positions = vocabulary.encode(as_keys(keys), ids)
    assert positions.dtype == np.int64
    assert positions.tolist() == new
    assert ids.tolist() == expected


def check_whole(vocabulary, known, counts):
    assert vocabulary.size == len(known) + 1
    assert vocabulary.keys_of(slice(vocabulary.size))[1:].tolist() == list(known)
    assert vocabulary.counts_of(slice(vocabulary.size)).tolist() == [0, *(counts[key] for key in known)]
    assert vocabulary.keys_of(slice(vocabulary.size)).dtype == np.uint64
    assert vocabulary.counts_of(slice(vocabulary.size)).dtype == np.int64


@given(st.lists(st.lists(KEYS, max_size=200), max_size=4), st.lists(KEYS, max_size=20))
def test_ids_and_counts_are_those_of_a_dictionary(calls, others):
    vocabulary, known, counts = Vocabulary(), {}, Counter()
    for keys in calls:
        check_encode(vocabulary, known, counts, keys)
        check_whole(vocabulary, known, counts)
    assert lookup(vocabulary, others) == [known.get(key, 0) for key in others]
    check_whole(vocabulary, known, counts)


@pytest.mark.parametrize("call", [1, 63, 1000, 10**6])
def test_a_vocabulary_grows(call):
    random = np.random.default_rng(call)
    values = random.integers(0, 2**64, 40_000, dtype=np.uint64)
    keys = values[random.integers(0, len(values), 60_000)].tolist()
    if call == 1:
        keys = keys[:5000]
    vocabulary, known, counts = Vocabulary(), {}, Counter()
    for start in range(0, len(keys), call):
        check_encode(vocabulary, known, counts, keys[start : start + call])
    check_whole(vocabulary, known, counts)
    unknown = np.setdiff1d(random.integers(0, 2**64, 1000, dtype=np.uint64), as_keys(keys))
    assert lookup(vocabulary, [*unknown.tolist(), *keys[:100]]) == [0] * len(unknown) + [known[k] for k in keys[:100]]
    assert vocabulary.memory_bytes < 60 * vocabulary.size + 2**18


def test_keys_may_be_read_only_and_strided():
    vocabulary = Vocabulary()
    keys = np.repeat(as_keys([5, 6, 5]), 2)[::2]
    keys.flags.writeable = False
    ids = np.empty(3, np.uint32)
    assert vocabulary.encode(keys, ids).tolist() == [0, 1]
    assert ids.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("keys", "ids", "error"),
    [
        (np.zeros(2, np.int64), np.zeros(2, np.uint32), TypeError),
        (np.zeros(2, np.uint64), np.zeros(2, np.int64), TypeError),
        (np.zeros(2, np.uint64), np.zeros(3, np.uint32), ValueError),
        (np.zeros((2, 2), np.uint64), np.zeros((2, 2), np.uint32), ValueError),
    ],
)
def test_other_types_and_shapes_are_refused(keys, ids, error):
    for method in (Vocabulary().encode, Vocabulary().lookup):
        with pytest.raises(error):
            method(keys, ids)


@given(st.lists(KEYS, unique=True, max_size=50), st.lists(KEYS, max_size=50))
def test_a_vocabulary_that_is_filled_again_goes_on_as_before(keys, later):
    first, second = Vocabulary(), Vocabulary()
    ids = np.empty(len(keys), np.uint32)
    first.encode(as_keys(keys), ids)
    second.extend(as_keys(keys))
    assert second.counts_of(slice(second.size)).tolist() == [0] * (len(keys) + 1)
    second.add_counts(ids)
    for vocabulary in (first, second):
        encode(vocabulary, later)
    assert first.keys_of(slice(first.size))[1:].tolist() == second.keys_of(slice(second.size))[1:].tolist()
    assert first.counts_of(slice(first.size)).tolist() == second.counts_of(slice(second.size)).tolist()
    assert digest_of(first) == digest_of(second)


def test_keys_may_have_been_counted_before():
    vocabulary = Vocabulary()
    vocabulary.extend(as_keys([5, 6]), np.array([3, 2**40]))
    vocabulary.extend(as_keys([7]))
    encode(vocabulary, [6, 7, 8])
    assert vocabulary.counts_of(slice(vocabulary.size)).tolist() == [0, 3, 2**40 + 1, 1, 1]


@pytest.mark.parametrize("keys", [[3, 4, 3], [4, 5, 1]])
def test_a_key_that_stands_in_a_vocabulary_twice_is_refused(keys):
    vocabulary = Vocabulary()
    vocabulary.extend(as_keys([1, 2]))
    with pytest.raises(ValueError, match="twice"):
        vocabulary.extend(as_keys(keys))


def test_ids_out_of_vocabulary_are_counted_too_and_others_are_refused():
    vocabulary = Vocabulary()
    vocabulary.extend(as_keys([7]))
    vocabulary.add_counts(np.array([0, 1, 0], np.uint8))
    with pytest.raises(ValueError, match="the id 2 is not below 2"):
        vocabulary.add_counts(np.array([1, 2], np.uint16))
    assert vocabulary.counts_of(slice(vocabulary.size)).tolist() == [2, 1]


def test_the_digest_is_that_of_the_keys_in_order(monkeypatch):
    keys = as_keys([5, 0, ALL_BITS])
    vocabulary = Vocabulary()
    assert digest_of(vocabulary) == sha256().hexdigest()
    vocabulary.extend(keys)
    assert digest_of(vocabulary) == sha256(keys.astype("<u8").tobytes()).hexdigest()
    monkeypatch.setattr(order_phase, "GROUP_ROWS", 2)
    assert digest_of(vocabulary) == sha256(keys.astype("<u8").tobytes()).hexdigest()


def test_more_values_than_there_are_ids_are_refused(monkeypatch):
    monkeypatch.setattr(vocabulary_module, "MOST_IDS", 3)
    vocabulary = Vocabulary()
    assert encode(vocabulary, [8, 9, 8, 7, 7])[1] == [0, 1, 3]
    with pytest.raises(ConfigError, match=r"more than 3 different values.*--ids hash"):
        encode(vocabulary, [9, 6])
    assert lookup(vocabulary, [7, 6]) == [3, 0]


def test_counts_go_beyond_32_bits():
    vocabulary = Vocabulary()
    vocabulary.extend(as_keys([7]))
    vocabulary._records[1, 1] = 2**32 - 1
    encode(vocabulary, [7, 7])
    assert vocabulary.counts_of(slice(vocabulary.size)).tolist() == [0, 2**32 + 1]


def most_probes(vocabulary):
    """The longest way from where a key is looked for first to where it is."""
    slots = vocabulary._slots
    last = len(slots) - 1
    used = np.flatnonzero(slots)
    ids = (slots[used] & np.uint64(2**32 - 1)).astype(np.int64)
    homes = np.array([mix(key) >> vocabulary._shift for key in vocabulary._records[ids, 0]], dtype=np.int64)
    return int(((used - homes) & last).max()), float(((used - homes) & last).mean())


@pytest.mark.parametrize("stride", [1, 3, 2**8, 2**16, 2**24, 2**32, 2**40, 2**50, 2**32 + 1, 10**9])
def test_regular_keys_are_spread_as_evenly_as_random_ones(monkeypatch, stride):
    monkeypatch.setattr(vocabulary_module, "SMALL_MOST_LOAD", 0.75)
    n = 12_000  # 0.73 of 2**14 slots
    with np.errstate(over="ignore"):
        keys = np.arange(n, dtype=np.uint64) * np.uint64(stride) + np.uint64(1)
    vocabulary = Vocabulary()
    vocabulary.extend(keys)
    assert len(vocabulary._slots) == 2**14
    longest, mean = most_probes(vocabulary)
    # Random keys: 1.4 slots further on the average, and some 60 at most.
    assert mean < 2
    assert longest < 150


def test_the_mix_is_one_to_one_and_changes_half_of_the_bits():
    random = np.random.default_rng(1)
    for bit in range(64):
        keys = random.integers(0, 2**64, 50, dtype=np.uint64)
        changed = [mix(key) ^ mix(key ^ np.uint64(1 << bit)) for key in keys]
        assert all(changed)
        # All but the uppermost bits of a key reach everywhere; these reach the slots and the tags at least.
        assert np.mean([bin(int(value)).count("1") for value in changed]) > 10


def test_vocabularies_are_used_by_several_threads_at_once():
    keys = np.random.default_rng(0).integers(0, 30_000, 100_000).astype(np.uint64)
    results = [None] * 4

    def work(number):
        vocabulary = Vocabulary()
        for start in range(0, len(keys), 1000):
            part = keys[start : start + 1000] + np.uint64(number)
            vocabulary.encode(part, np.empty(len(part), np.uint32))
        results[number] = (
            vocabulary.keys_of(slice(vocabulary.size))[1:] - np.uint64(number),
            vocabulary.counts_of(slice(vocabulary.size)),
        )

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in results[1:]:
        for one, other in zip(results[0], found, strict=True):
            np.testing.assert_array_equal(one, other)


def test_without_slots_nothing_is_looked_up_and_all_else_stays():
    vocabulary = Vocabulary()
    keys = np.array([5, 3, 5], np.uint64)
    vocabulary.encode(keys, np.empty(3, np.uint32))
    before = vocabulary.memory_bytes
    vocabulary.drop_slots()
    assert vocabulary.memory_bytes < before
    assert vocabulary.keys_of(slice(vocabulary.size))[1:].tolist() == [5, 3]
    assert vocabulary.counts_of(slice(vocabulary.size))[1:].tolist() == [2, 1]
    for method in (vocabulary.encode, vocabulary.lookup):
        with pytest.raises(ValueError, match=r"after drop_slots"):
            method(keys, np.empty(3, np.uint32))
