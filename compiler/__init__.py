"""From a diffusers pipeline folder to a deployable bundle."""
