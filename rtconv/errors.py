"""The one error that rtconv raises for bad input."""


class RtconvError(Exception):
    """Bad input from outside: a file, a setting or a device.

    The message is one sentence that names the file, the key or the device and
    says what to do. The command line prints it and exits with 1.
    """
