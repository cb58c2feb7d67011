"""The mathematics of the paper, on tensors alone: traces, segment, rules, diagnosis."""
