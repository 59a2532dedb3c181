"""Steps that make a model smaller: pruning, quantisation, distillation into a smaller one."""
