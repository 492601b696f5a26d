"""Detectors that need no training: the solution is computed."""

import numpy as np


def l1_optimum(
    x: np.ndarray, target: np.ndarray, kernel_size: int, dilation_rate: int = 1
) -> tuple[np.ndarray, float]:
    """The causal FIR whose output has the least mean absolute error.

    A linear program, solved exactly: minimise the mean of ``e[n]`` with
    ``-e[n] <= sum_j w[j] x[n - j * dilation_rate] - target[n] <= e[n]``.

    Parameters
    ----------
    x, target : ndarray, (frames,)
    kernel_size, dilation_rate : int

    Returns
    -------
    weights : ndarray, (kernel_size,)
        ``weights[0]`` meets the newest sample: a column of the Dense matrix.
    error : float
        The mean absolute error.
    """
    from scipy.optimize import linprog
    from scipy.sparse import bmat, eye

    frames = len(x)
    padded = np.concatenate([np.zeros((kernel_size - 1) * dilation_rate), x])
    delayed = [
        padded[len(padded) - frames - age : len(padded) - age]
        for age in dilation_rate * np.arange(kernel_size)
    ]
    taps, errors = np.stack(delayed, axis=1), eye(frames)
    solution = linprog(
        c=np.concatenate([np.zeros(kernel_size), np.full(frames, 1 / frames)]),
        A_ub=bmat([[taps, -errors], [-taps, -errors]], format="csr"),
        b_ub=np.concatenate([target, -target]),
        bounds=[(None, None)] * kernel_size + [(0, None)] * frames,
        method="highs",
    )
    return solution.x[:kernel_size], float(solution.fun)
