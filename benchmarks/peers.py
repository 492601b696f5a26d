"""Run other keyword detectors over a stream, and keep what they say.

They need packages that disturb each other's dependencies, so this program runs
in a Python environment of its own, with numpy, soundfile, soxr and

    pip install --no-deps pvporcupine==1.9.5
    pip install pymicro-wakeword

Usage: python benchmarks/peers.py STREAM KEYWORD OUT.npz

Porcupine has a sensitivity for a threshold: it runs once for each, and its
detections are kept, in samples. microWakeWord has a probability every 30 ms,
the mean of its window, which is kept as it is; it becomes events in
`benchmarks/quality.py`, with the same picker as ours.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from rtconv.audio import read_blocks

RATE = 16000
SENSITIVITIES = [0.0, 0.25, 0.5, 0.75, 1.0]


def chunks(path, length):
    """The stream at 16 kHz as int16, so many samples at a time."""
    kept = np.zeros(0, np.int16)
    for block in read_blocks(path, RATE):
        pcm = np.clip(np.round(block.mean(axis=1) * 32768), -32768, 32767).astype(np.int16)
        kept = np.concatenate([kept, pcm])
        whole = len(kept) // length * length
        yield from kept[:whole].reshape(-1, length)
        kept = kept[whole:]


def porcupine(path, keyword):
    """Samples at which each sensitivity detects."""
    import pvporcupine

    handles = [pvporcupine.create(keywords=[keyword], sensitivities=[s]) for s in SENSITIVITIES]
    length = handles[0].frame_length
    detections = [[] for _ in handles]
    for i, chunk in enumerate(chunks(path, length)):
        for handle, found in zip(handles, detections, strict=True):
            if handle.process(chunk) >= 0:
                found.append((i + 1) * length)
    return detections


def micro_wake_word(path, keyword):
    """Probabilities, and the samples that each of them took."""
    from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

    network = MicroWakeWord.from_builtin(Model(keyword))
    frontend = MicroWakeWordFeatures()
    probabilities, features = [], 0
    for chunk in chunks(path, 160):
        for frame in frontend.process_streaming(chunk.tobytes()):
            probability = network.process_streaming_prob(frame)
            features += 1
            if features % network.stride == 0:
                probabilities.append(probability)
    return np.array(probabilities, np.float32), 160 * network.stride


def main():
    path, keyword, out = sys.argv[1:]
    results = {}
    for sensitivity, found in zip(SENSITIVITIES, porcupine(path, keyword), strict=True):
        results[f"porcupine {sensitivity}"] = np.array(found, np.int64)
    try:
        results["microwakeword"], results["microwakeword_hop"] = micro_wake_word(path, keyword)
    except ValueError:
        print(f"microWakeWord has no model of {keyword}", file=sys.stderr)
    np.savez(out, **results)


if __name__ == "__main__":
    main()
