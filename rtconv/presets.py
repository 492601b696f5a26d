"""Networks by name, for a config's ``network: {preset: NAME}``."""

from typing import Any

PRESETS: dict[str, Any] = {}


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
    return values
