"""`python -m mailserver`: the same command line as the console script."""

from mailserver.cli import main

if __name__ == "__main__":
    main()
