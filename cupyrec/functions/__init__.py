"""Stateless maths, one operation a file: what DLRM is made of here, and other models can be.

Forward and backward are functions of their own, which fill arrays that the caller has allocated:

    embedding_bag_forward, embedding_bag_backward    rows pooled into one vector a bag, and the gradient of the rows
    linear_forward, linear_weight_gradient, linear_input_gradient
    bias_activation_forward, bias_activation_backward    bias and ReLU; BiasSums adds the gradients of the biases
    dot_interaction_forward, dot_interaction_backward, interaction_width
    bce_with_logits                                  the loss and its gradient in one
    join_pooled                                      adds pooled vectors that were summed apart; forward alone

They check shapes and dtypes, and never look at what stands in the arrays. docs/own_model.md has a whole example.
"""

from cupyrec.functions.bce_with_logits import bce_with_logits
from cupyrec.functions.bias_activation import bias_activation_backward, bias_activation_forward, sum_blocks
from cupyrec.functions.bias_sums import BiasSums
from cupyrec.functions.dot_interaction import dot_interaction_backward, dot_interaction_forward, interaction_width
from cupyrec.functions.embedding_bag import embedding_bag_backward, embedding_bag_forward
from cupyrec.functions.join_pooled import join_pooled
from cupyrec.functions.linear import linear_forward, linear_input_gradient, linear_weight_gradient

__all__ = [
    "BiasSums",
    "bce_with_logits",
    "bias_activation_backward",
    "bias_activation_forward",
    "dot_interaction_backward",
    "dot_interaction_forward",
    "embedding_bag_backward",
    "embedding_bag_forward",
    "interaction_width",
    "join_pooled",
    "linear_forward",
    "linear_input_gradient",
    "linear_weight_gradient",
    "sum_blocks",
]
