"""One-shot pruning of a pretrained model, no adapter involved.

`pruning` (scores, masks and the update of SparseGPT, as functions of tensors), `layerwise` (statistics of linear
layers, pruning block by block), `corpus` (running text to calibrate and to test on).
"""
