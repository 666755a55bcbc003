"""Stand-ins that are small enough for every test."""
