"""What can be known of the Adreno 740 without the phone: its compiler's statistics, and a model of time."""
