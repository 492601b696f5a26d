"""What a detector is: layers, weights, the Dense format and the deployable file."""
