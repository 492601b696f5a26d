"""Networks by name, for a config's ``network: {preset: NAME}``.

A preset is plain settings, a function of the samplerate: what it gives could as
well be written in the config, whose own words go before it.
"""

import difflib
from collections.abc import Callable
from typing import Any


def keyword(samplerate: int) -> dict[str, Any]:
    """A word of about a second; a score every 10 ms."""
    rate = samplerate / 16000
    return {
        "network": [
            *spectrum(64, round(256 * rate), round(80 * rate), (100, min(7500, 0.47 * samplerate))),
            {
                "filters": 32,
                "kernel_size": 4,
                "strides": 2,
                "batch_normalization": True,
                "activation": "relu",
            },
            {"filters": 32, "kernel_size": 1, "activation": "relu"},
            *residual_layers(32, 5, dropout=0.1),
            *score(9),
        ],
        "training": {
            **RECIPE,
            "target": {"shape": "plateau", "delay": 0.03, "width": 0.1, "ignore": 0.18},
            "epochs": 8,
            "steps_per_epoch": 200,
            "excerpt": 4.0,
            "augment": {
                "gain_db": [-12, 6],
                "snr_db": [-2, 25],
                "speed": [0.87, 1.15],
                "background_speed": [0.87, 1.15],
                "tempo": [0.8, 1.25],
                "pitch": [0.75, 1.35],
                "reverb": 0.5,
                "filter": 0.7,
                "bandwidth": 0.4,
                "truncate": 0.12,
            },
        },
        "detection": {"refractory": 1.0},
    }


def chime(samplerate: int) -> dict[str, Any]:
    """A tonal or fixed sound of 0.1 to 2 s; a score every 2 ms."""
    rate = samplerate / 16000
    return {
        "network": [
            *spectrum(48, round(512 * rate), round(32 * rate), (80, 0.47 * samplerate), 8),
            {"filters": 24, "kernel_size": 2, "batch_normalization": True, "activation": "relu"},
            *residual_layers(24, 9),
            *score(1),
        ],
        "training": {
            **FIXED_SOUND_RECIPE,
            "target": {"shape": "impulse", "width": 0.006, "ignore": 0.009},
            "excerpt": 1.6,
        },
        "detection": {"refractory": 0.5},
    }


def click(samplerate: int) -> dict[str, Any]:
    """A sound up to 0.1 s, or one whose sample counts: a score for every sample.

    It is trained with a hop of 1 ms, and runs at the full rate.
    """
    rate = samplerate / 16000
    return {
        "network": [
            *spectrum(48, round(320 * rate), round(16 * rate), (100, 0.47 * samplerate), 8),
            {"filters": 32, "kernel_size": 2, "batch_normalization": True, "activation": "relu"},
            *residual_layers(32, 5),
            *score(1),
        ],
        "precise": True,
        "training": {
            **FIXED_SOUND_RECIPE,
            "target": {"shape": "impulse", "width": 0.004, "ignore": 0.006},
            "epochs": 20,
            "excerpt": 1.0,
        },
        "detection": {"refractory": 0.1},
    }


def spectrum(
    bands: int, taps: int, strides: int, band: tuple[float, float], pieces: int = 0
) -> list[dict]:
    """Logarithm of the power in frequency bands, normalised: filters, square, pair
    sums, log, and a 1x1 that starts as identity.

    Parameters
    ----------
    bands, taps, strides : int
    band : (low, high)
        Hz.
    pieces : int
        Of the bands, so many begin as pieces of the patterns.
    """
    return [
        {
            "filters": 2 * bands,
            "kernel_size": taps,
            "strides": strides,
            "use_bias": False,
            "activation": "square",
            "kernel_initializer": "gabor",
            "band": list(band),
            "pieces": pieces,
        },
        {
            "filters": bands,
            "kernel_size": 1,
            "activation": "log",
            "kernel_initializer": "pairs",
            "bias_initializer": 1e-4,
            "trainable": False,
        },
        {
            "filters": bands,
            "kernel_size": 1,
            "use_bias": False,
            "batch_normalization": True,
            "kernel_initializer": "identity",
        },
    ]


def residual_layers(filters: int, kernel_size: int, dropout: float = 0.0) -> list[dict]:
    """Five residual layers that together see ``31 * (kernel_size - 1) + 1`` frames."""
    return [
        {
            "filters": filters,
            "kernel_size": kernel_size,
            "dilation_rate": 2**i,
            "use_bias": False,
            "batch_normalization": True,
            "activation": "relu",
            "residual": True,
            "dropout": dropout,
        }
        for i in range(5)
    ]


def score(average: int) -> list[dict]:
    """One score, a causal average over so many of it, and its sigmoid."""
    if average == 1:
        return [{"filters": 1, "kernel_size": 1, "activation": "sigmoid", "bias_initializer": -4.0}]
    return [
        {"filters": 1, "kernel_size": 1, "bias_initializer": -4.0},
        {
            "filters": 1,
            "kernel_size": average,
            "activation": "sigmoid",
            "kernel_initializer": "average",
            "trainable": False,
        },
    ]


#: What the presets train alike.
RECIPE = {
    "loss": "focal_crossentropy",
    "optimizer": "adamw",
    "learning_rate": 2.5e-3,
    "weight_decay": 1e-3,
    "schedule": "cosine",
    "batch_size": 32,
    "mining": 2,
}
#: And what those for fixed sounds do.
FIXED_SOUND_RECIPE = {
    **RECIPE,
    "epochs": 14,
    "steps_per_epoch": 100,
    "augment": {
        "gain_db": [-12, 6],
        "snr_db": [-8, 25],
        "speed": [0.97, 1.03],
        "background_speed": [0.75, 1.33],
        "reverb": 0.25,
        "room": 0.25,
        "filter": 0.3,
        "bandwidth": 0.2,
        "truncate": 0.15,
    },
}

PRESETS: dict[str, Callable[[int], dict[str, Any]]] = {
    "keyword": keyword,
    "chime": chime,
    "click": click,
}


def expand_preset(values: Any) -> Any:
    """Replace ``network: {preset: NAME}`` by the preset's settings.

    Parameters
    ----------
    values : the config as read from YAML

    Returns
    -------
    The same with a list of layers for `network`, and the preset's values where
    `training` and `detection` say nothing.

    Raises
    ------
    ValueError
        If there is no preset of that name.
    """
    if not isinstance(values, dict) or not isinstance(values.get("network"), dict):
        return values
    if set(values["network"]) != {"preset"}:
        raise ValueError("network: give a list of layers, or {preset: NAME}")
    name, samplerate = values["network"]["preset"], values.get("samplerate")
    if name not in PRESETS:
        nearest = difflib.get_close_matches(str(name), PRESETS, 1, cutoff=0)[0]
        raise ValueError(
            f"network.preset: unknown preset {str(name)[:60]!r}, the nearest known is {nearest!r}"
        )
    if not isinstance(samplerate, int) or not 1000 <= samplerate <= 10_000_000:
        raise ValueError("samplerate: a preset needs an integer of 1000 Hz or more")
    preset = PRESETS[name](samplerate)
    expanded = {**values, "network": preset["network"]}
    expanded.setdefault("precise", preset.get("precise", False))
    if "training" in values:
        expanded["training"] = _filled(values["training"], preset["training"])
    detection = values.get("detection", {})
    if isinstance(detection, dict) and detection and all(map(_is_section, detection.values())):
        filled = {key: _filled(part, preset["detection"]) for key, part in detection.items()}
        expanded["detection"] = filled
    else:
        expanded["detection"] = _filled(detection, preset["detection"])
    return expanded


def _is_section(value: Any) -> bool:
    return isinstance(value, dict)


def _filled(values: Any, defaults: dict[str, Any]) -> Any:
    """`values` with the defaults where they say nothing, section by section."""
    if not isinstance(values, dict):
        return values
    filled = {**defaults, **values}
    for key, default in defaults.items():
        if isinstance(default, dict) and key in values:
            filled[key] = _filled(values[key], default)
    return filled
