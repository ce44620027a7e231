"""`python -m vesalius` is the same as `vesalius`."""

from vesalius.apps.cli import main

if __name__ == "__main__":
    main()
