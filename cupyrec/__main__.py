"""`python -m cupyrec`."""

from cupyrec.cli import main

main()
