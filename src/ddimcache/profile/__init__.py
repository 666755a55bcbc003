"""From a device's timeline to what each kernel and layer of a real image cost."""
