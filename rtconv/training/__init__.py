"""Making detectors: data, training with Keras, closed forms, calibration, conversion."""
