"""`python -m p2pmq` is the command `p2pmq`."""

from p2pmq.cli import main

main()
