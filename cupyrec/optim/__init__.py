"""Optimizers and the learning rate.

Each optimizer updates the rows of a batch (update_rows, told by a RowUpdate) and dense parameters (update_dense), in
place. A row's state stands in its record, after the weights. docs/own_model.md has a whole example.
"""

from cupyrec.optim.adagrad import Adagrad
from cupyrec.optim.registry import make_optimizer
from cupyrec.optim.row_update import RowUpdate
from cupyrec.optim.rowwise_adagrad import RowwiseAdagrad
from cupyrec.optim.schedule import WarmupPolynomialDecay
from cupyrec.optim.sgd import Sgd

__all__ = ["Adagrad", "RowUpdate", "RowwiseAdagrad", "Sgd", "WarmupPolynomialDecay", "make_optimizer"]
