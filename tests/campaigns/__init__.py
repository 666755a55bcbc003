"""Long runs that look for what seldom happens: faults, mutated inputs, growth. Most have a short form."""
