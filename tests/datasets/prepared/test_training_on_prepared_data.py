"""Weights trained on prepared data are those of the same batches from memory, bit for bit, with each system."""

import pytest
from prepared_for_tests import random_samples, write_prepared

from cupyrec import BatchList, DlrmConfig, Trainer
from cupyrec.config import SystemConfig
from cupyrec.datasets.prepared import manifest
from cupyrec.datasets.prepared.prepared_data import PreparedData

TABLES = (7, 300, 40)
CONFIG = DlrmConfig(TABLES, dense_features=3, dimension=4, bottom=(6, 4), top=(5, 1))
BATCH, SAMPLES = 16, 200
SYSTEMS = ("resident", "hybrid", "static", "serial", "scratchpipe")


@pytest.mark.parametrize("multi_hot", [(), (1,)])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("system", SYSTEMS)
def test_same_weights_as_from_memory(tmp_path, monkeypatch, system, shuffle, multi_hot):
    monkeypatch.setattr(manifest, "BLOCK_SAMPLES", 64)
    monkeypatch.setattr(manifest, "SHARD_SAMPLES", 128)
    samples = random_samples(SAMPLES, TABLES, multi_hot=multi_hot)
    samples.dense[:] /= SAMPLES
    write_prepared(tmp_path, samples)
    data = PreparedData(tmp_path, shuffle=shuffle, shuffle_window=128)
    valid = BatchList(list(PreparedData(tmp_path).batches(BATCH)), TABLES, 3)
    copies = BatchList(
        [type(b)(b.dense.copy(), b.rows.copy(), b.offsets.copy(), b.labels.copy()) for b in data.batches(BATCH)],
        TABLES,
        3,
    )
    found = []
    for source in (data, copies):
        size = "10%" if system in ("resident", "hybrid") else "200"
        trainer = Trainer(CONFIG, batch_size=BATCH, threads=1, device="cpu", seed=3, system=SystemConfig(system, size))
        result = trainer.fit(source, valid=PreparedData(tmp_path) if source is data else valid)
        assert result.samples == SAMPLES
        parameters = trainer.system.model.parameters.tobytes()
        found.append((trainer.system.table.records.tobytes(), parameters, result.final.metrics))
    assert found[0] == found[1]
