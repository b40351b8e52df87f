"""The vocabulary of one column: which id a value has, and how often the value was met."""

from __future__ import annotations

import numpy as np

from cupyrec.datasets.preparing import key_table
from cupyrec.datasets.preparing.vocabulary_file import VocabularyFile, read_vocabulary, write_vocabulary
from cupyrec.errors import ConfigError

__all__ = [
    "MOST_IDS",
    "Vocabulary",
    "VocabularyFile",
    "read_vocabulary",
    "write_vocabulary",
]

# Ids are uint32, and 0 is out of vocabulary.
MOST_IDS = 2**32 - 1
LEAST_SLOTS, LEAST_RECORDS = 2**10, 2**8
# Of the slots at most so many are used; when there are more keys the slots are doubled. While they are few, memory does
# not matter, and a key that is not in its first slot costs a wrongly predicted branch.
MOST_LOAD = 0.75
SMALL_SLOTS, SMALL_MOST_LOAD = 2**15, 0.25


class Vocabulary:
    """Ids of 64-bit keys in order of first appearance, from 1 on; 0 stands for all keys that are not known.

    size: ids in use, 0 included. Methods may not be called from several threads at once; different vocabularies may.
    """

    def __init__(self) -> None:
        self.size = 1
        self._slots = np.zeros(LEAST_SLOTS, dtype=np.uint64)
        self._records = np.zeros((LEAST_RECORDS, 2), dtype=np.uint64)

    @property
    def memory_bytes(self) -> int:
        return self._slots.nbytes + self._records.nbytes

    def encode(self, keys: np.ndarray, ids_out: np.ndarray) -> np.ndarray:
        """Give each key its id, a new key the next one, and count it.

        keys: (n,) uint64; ids_out: (n,) uint32. Modified.

        Returns the positions within keys, (m,) int64, ascending, at which a key was met for the first time: these
        have the m new ids in order. Raises ConfigError beyond MOST_IDS ids; keys before that one are counted.
        """
        return self._add(keys, ids_out, count=1)

    def lookup(self, keys: np.ndarray, ids_out: np.ndarray) -> None:
        """The id of each key, 0 for a key that is not known. Nothing is added or counted.

        keys: (n,) uint64; ids_out: (n,) uint32. Modified.
        """
        self._check(keys, ids_out)
        key_table.lookup_keys(self._slots, self._records, self._shift, keys, ids_out)

    def drop(self) -> None:
        """Give all memory back, when nothing is asked any more."""
        self.drop_slots()
        self._records = np.zeros((1, 2), dtype=np.uint64)
        self.size = 1

    def drop_slots(self) -> None:
        """Give the memory of the hash table back, when all is known: keys are no longer looked up (ValueError)."""
        self._slots = np.zeros(0, dtype=np.uint64)

    def extend(self, keys: np.ndarray, counts: np.ndarray | int = 0) -> None:
        """Append keys in the order of their ids. ValueError when one is known already.

        keys: (n,) uint64; counts: (n,) int64, how often each has been met, or one number for all.
        """
        before = self.size
        if self._add(keys, np.empty(keys.shape[0], dtype=np.uint32), count=0).shape != keys.shape:
            raise ValueError("a key stands in a vocabulary twice")
        self._records[before : self.size, 1] = counts

    def add_counts(self, ids: np.ndarray) -> None:
        """Count the ids, (n,) of an unsigned type, of data that are encoded already. ValueError for one unknown."""
        position = key_table.count_ids(self._records, self.size, ids)
        if position >= 0:
            raise ValueError(f"the id {ids[position]} is not below {self.size}, the size of its vocabulary")

    def keys_of(self, ids: np.ndarray | slice) -> np.ndarray:
        """(n,) uint64, a copy; the key of the id 0 means nothing."""
        return np.array(self._records[ids, 0])

    def counts_of(self, ids: np.ndarray | slice) -> np.ndarray:
        """(n,) int64, a copy."""
        return self._records[ids, 1].astype(np.int64)

    @property
    def _shift(self) -> np.uint64:
        """The upper bits of a mixed key that are left by it number the slots."""
        return np.uint64(65 - self._slots.shape[0].bit_length())

    @property
    def _used_slots(self) -> int:
        """How many slots may be used before there must be more of them; one is counted for the id 0."""
        slots = self._slots.shape[0]
        return int(slots * (SMALL_MOST_LOAD if slots <= SMALL_SLOTS else MOST_LOAD))

    def _check(self, keys: np.ndarray, ids: np.ndarray) -> None:
        if keys.dtype != np.uint64 or ids.dtype != np.uint32:
            raise TypeError(f"keys must be uint64 and ids uint32, but they are {keys.dtype} and {ids.dtype}")
        if keys.ndim != 1 or keys.shape != ids.shape:
            raise ValueError(f"there must be an id for each key, but their shapes are {keys.shape} and {ids.shape}")
        if not self._slots.shape[0]:
            raise ValueError("keys cannot be looked up after drop_slots()")

    def _add(self, keys: np.ndarray, ids_out: np.ndarray, *, count: int) -> np.ndarray:
        self._check(keys, ids_out)
        before = self.size
        new_positions = np.empty(keys.shape[0], dtype=np.int64)
        position = 0
        while True:
            room = min(self._records.shape[0], self._used_slots, MOST_IDS + 1)
            position, self.size = key_table.encode_keys(
                self._slots,
                self._records,
                self._shift,
                self.size,
                room,
                keys,
                position,
                np.uint64(count),
                ids_out,
                new_positions[self.size - before :],
            )
            if position == keys.shape[0]:
                return new_positions[: self.size - before].copy()
            self._grow()

    def _grow(self) -> None:
        """Make room for at least one key more."""
        if self.size > MOST_IDS:
            raise ConfigError(
                f"a column has more than {MOST_IDS} different values, which is the most that have ids; use --ids hash"
            )
        if self.size >= self._used_slots:
            slots = 2 * self._slots.shape[0]
            del self._slots  # the records are enough to fill the new ones
            self._slots = np.zeros(slots, dtype=np.uint64)
            key_table.fill_slots(self._slots, self._records, self._shift, self.size)
        if self.size >= self._records.shape[0]:
            # In place: the system moves pages of large arrays instead of copying them. No view of it is ever lent.
            self._records.resize((self._records.shape[0] * 3 // 2, 2), refcheck=False)
