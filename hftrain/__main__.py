"""``python -m hftrain`` is the `hftrain` command."""

from hftrain.cli.main import main

raise SystemExit(main())
