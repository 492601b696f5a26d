"""A detector in words: what ``rtconv inspect`` prints."""

import json
from typing import Any

from rtconv.model.detector import Model
from rtconv.model.layers import Layer, multiply_adds_per_sample


def summary(model: Model) -> dict[str, Any]:
    """Everything that is known of a model, as JSON values."""
    certificate = model.certificate
    return {
        "name": model.name,
        "samplerate": model.samplerate,
        "channels": model.channels,
        "receptive_field": model.receptive_field,
        "hop": model.hop,
        "weights": sum(_weights(layer) for layer in model.layers),
        "multiply_adds_per_second": multiply_adds_per_sample(model.layers) * model.samplerate,
        "layers": [_layer(layer) for layer in model.layers],
        "outputs": [output.model_dump() for output in model.outputs],
        "certificate": None if certificate is None else certificate.model_dump(),
        "training": model.training,
    }


def describe(model: Model, as_json: bool = False) -> str:
    """The summary as text for a person, or as JSON."""
    facts = summary(model)
    if as_json:
        return json.dumps(facts, indent=2)
    seconds = facts["receptive_field"] / model.samplerate
    lines = [
        f"{model.name}: {model.samplerate} Hz, {model.channels} channel(s)",
        f"receptive field {facts['receptive_field']} samples ({seconds * 1000:.1f} ms), "
        f"hop {facts['hop']} sample(s), lookahead 0",
        f"{facts['weights']} weights, "
        f"{facts['multiply_adds_per_second'] / 1e6:.3g} million multiply-adds per second",
        "",
        f"{'layer':>5} {'filters':>7} {'kernel_size':>11} {'strides':>7} {'dilation_rate':>13} "
        f"{'groups':>6} {'bias':>5} {'activation':<10} residual",
    ]
    for i, layer in enumerate(model.layers):
        lines.append(
            f"{i:>5} {layer.filters:>7} {layer.kernel_size:>11} {layer.strides:>7} "
            f"{layer.dilation_rate:>13} {layer.groups:>6} {_yes(layer.bias is not None):>5} "
            f"{layer.activation:<10} {_yes(layer.residual)}"
        )
    lines.append("")
    for output in model.outputs:
        pattern = "" if output.pattern is None else f", pattern {output.pattern:g} s"
        lines.append(
            f"output {output.name}: threshold {output.threshold:.4g}, release {output.release:.4g}, "
            f"refractory {output.refractory:g} s, max_hold {output.max_hold:g} s, "
            f"decision {output.decision}{pattern}"
        )
    if model.certificate is not None:
        lines.append(
            f"certificate: {model.certificate.largest_difference:.1e} of full scale "
            f"off {model.certificate.oracle}, {len(model.certificate.tested)} comparisons"
        )
    for key, value in model.training.items():
        text = json.dumps(value)
        lines.append(f"training {key}: {text if len(text) <= 160 else text[:157] + '...'}")
    return "\n".join(lines)


def _weights(layer: Layer) -> int:
    return layer.dense.size + (0 if layer.bias is None else layer.bias.size)


def _layer(layer: Layer) -> dict[str, Any]:
    names = ("filters", "kernel_size", "strides", "dilation_rate", "groups", "activation")
    return {name: getattr(layer, name) for name in names} | {
        "in_channels": layer.in_channels,
        "use_bias": layer.bias is not None,
        "residual": layer.residual,
    }


def _yes(value: bool) -> str:
    return "yes" if value else "no"
