"""Changes to the weights before import: quantisation."""
