"""`python -m invgen`, the same as the command `invgen`."""

from invgen.cli import main

if __name__ == "__main__":
    main()
