"""The sound card: devices, the audio callback, the listening detector and where events go."""
