"""Stands in front of PyTorch in child processes that have no use for it; see ``tests/kit/no_torch.py``."""

raise ImportError("this process does without PyTorch")
