"""``python -m rtconv``: the command line."""

from rtconv.cli import main

if __name__ == "__main__":
    main()
