"""A network at work on a stream: samples in, one score per sample out, and events."""
