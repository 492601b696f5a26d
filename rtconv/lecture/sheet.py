"""Where an experiment draws its figures and keeps its files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtconv.errors import RtconvError
from rtconv.files import atomic_path

#: Lines that differ in grey as well as by their dashes.
_STYLE = {
    "axes.prop_cycle": (
        "cycler('color', ['0', '0.4', '0.6', '0.2', '0.5'])"
        " + cycler('linestyle', ['-', '--', '-', ':', '-.'])"
    ),
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 9,
    "legend.framealpha": 0.9,
}


@dataclass(frozen=True)
class Sheet:
    """Where an experiment draws its figures and keeps its files.

    Parameters
    ----------
    plots : Path, optional
        Folder of the figures, ``NAME.png``; without it none is written.
    show : bool
        Whether figures are shown on the screen; `wait` waits until they are closed.
    folder : Path
        Folder of the weights.
    """

    plots: Path | None = None
    show: bool = False
    folder: Path = Path()

    @contextmanager
    def figure(
        self, name: str, rows: int = 1, columns: int = 1, height: float = 2.4, **options: Any
    ) -> Iterator[Any]:
        """A figure to draw on; it is finished when the block ends.

        Parameters
        ----------
        name : str
            Of the file, without its suffix.
        rows, columns : int
        height : float
            Inches of a row.
        **options
            As for ``matplotlib.pyplot.subplots``.

        Yields
        ------
        Axes, or an array of them if there are several
        """
        from matplotlib import pyplot

        with pyplot.rc_context(_STYLE):
            figure, axes = pyplot.subplots(
                rows,
                columns,
                figsize=(8, 0.4 + height * rows),
                layout="constrained",
                **options,
            )
            try:
                yield axes
                if self.plots is not None:
                    with atomic_path(self.plots / f"{name}.png") as temporary:
                        figure.savefig(temporary, dpi=110)
            finally:
                if not self.show:
                    pyplot.close(figure)

    def wait(self) -> None:
        """Show the figures, if they are to be shown, until the user closes them.

        Raises
        ------
        RtconvError
            If there is no screen.
        """
        if not self.show:
            return
        from matplotlib import pyplot

        if pyplot.get_backend().lower() == "agg":
            raise RtconvError("--show needs a screen, use --plot DIR to write the figures")
        pyplot.show()
